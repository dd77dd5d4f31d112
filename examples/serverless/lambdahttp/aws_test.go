package lambdahttp_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/lambdahttp"
)

// A service of AWS stands in front of a function.
type service struct {
	name  string
	file  string // has a signed delivery, of which put replaces a part
	put   func(d document, r *http.Request)
	plain []string // the types whose bodies stay text; nil is all
}

var services = []service{
	{"function URL", "testdata/functionurl.json", putVersion2, []string{"application/json", "text/"}},
	{"HTTP API", "testdata/apigatewayv2.json", putVersion2, []string{"application/json", "text/"}},
	{"REST API", "testdata/apigateway.json", putVersion1, nil},
	{"REST API with binary types", "testdata/apigateway.json", putVersion1, []string{}},
	{"load balancer", "testdata/alb.json", putALB, []string{"application/json", "text/"}},
	{"load balancer with multi-value headers", "testdata/alb-multivalue.json", putALB, []string{"application/json", "text/"}},
}

// A document is an event of AWS Lambda.
type document map[string]any

func (s service) document(t *testing.T) document {
	t.Helper()
	text, err := os.ReadFile(s.file)
	require.NoError(t, err)
	var d document
	require.NoError(t, json.Unmarshal(text, &d))
	return d
}

// object returns the object at a path in the document.
func (d document) object(path ...string) map[string]any {
	object := map[string]any(d)
	for _, name := range path {
		object = object[name].(map[string]any)
	}
	return object
}

func putVersion2(d document, r *http.Request) {
	d.object("requestContext", "http")["method"] = r.Method
	headers := d.object("headers")
	delete(headers, "mailtrap-signature")
	delete(headers, "content-type")
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = strings.Join(values, ",")
	}
}

func putVersion1(d document, r *http.Request) {
	d["httpMethod"] = r.Method
	last, all := d.object("headers"), d.object("multiValueHeaders")
	for _, headers := range []map[string]any{last, all} {
		delete(headers, "Mailtrap-Signature")
		delete(headers, "Content-Type")
	}
	for name, values := range r.Header {
		last[name], all[name] = values[len(values)-1], values
	}
}

func putALB(d document, r *http.Request) {
	d["httpMethod"] = r.Method
	_, isMultiValue := d["multiValueHeaders"]
	field := "headers"
	if isMultiValue {
		field = "multiValueHeaders"
	}
	headers := d.object(field)
	delete(headers, "mailtrap-signature")
	delete(headers, "content-type")
	for name, values := range r.Header {
		if name = strings.ToLower(name); isMultiValue {
			headers[name] = values
		} else {
			headers[name] = values[len(values)-1]
		}
	}
}

// before returns the service with a function behind it that has the handler.
func (s service) before(t *testing.T, handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // AWS does not invoke the function for a part
		}
		d := s.document(t)
		s.put(d, r)
		d["body"], d["isBase64Encoded"] = string(body), false
		if s.isBinary(r.Header.Get("Content-Type")) {
			d["body"], d["isBase64Encoded"] = base64.StdEncoding.EncodeToString(body), true
		}
		output, err := invoke(t, handler, d)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		s.answer(t, w, output)
	})
}

func (s service) isBinary(contentType string) bool {
	for _, plain := range s.plain {
		if strings.HasPrefix(contentType, plain) {
			return false
		}
	}
	return s.plain != nil
}

// invoke calls a function with an event, as Lambda does, and returns its
// output.
func invoke(t *testing.T, handler http.Handler, d document) ([]byte, error) {
	event, err := json.Marshal(d)
	require.NoError(t, err)
	return lambda.NewHandler(lambdahttp.Function(handler)).Invoke(t.Context(), event)
}

// A response is the output of a function as the services read it.
type response struct {
	StatusCode        int                 `json:"statusCode"`
	StatusDescription *string             `json:"statusDescription"`
	Headers           map[string]string   `json:"headers"`
	MultiValueHeaders map[string][]string `json:"multiValueHeaders"`
	Body              string              `json:"body"`
	IsBase64Encoded   *bool               `json:"isBase64Encoded"`
}

func read(t *testing.T, output []byte) (resp response) {
	t.Helper()
	require.NoError(t, json.Unmarshal(output, &resp))
	return resp
}

// answer answers with the output of the function. It takes no other form than
// the service takes.
func (s service) answer(t *testing.T, w http.ResponseWriter, output []byte) {
	resp, d := read(t, output), s.document(t)
	_, isMultiValue := d["multiValueHeaders"]
	for name, value := range resp.Headers {
		w.Header().Set(name, value)
	}
	for name, values := range resp.MultiValueHeaders {
		w.Header()[name] = values
	}
	_, isALB := d.object("requestContext")["elb"]
	switch {
	case isALB != (resp.StatusDescription != nil),
		isALB && *resp.StatusDescription != fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode)),
		resp.IsBase64Encoded == nil, *resp.IsBase64Encoded,
		isMultiValue != (resp.Headers == nil), isMultiValue != (resp.MultiValueHeaders != nil):
		http.Error(w, "the output has the wrong form: "+string(output), http.StatusBadGateway)
	default:
		w.WriteHeader(resp.StatusCode)
		_, _ = io.WriteString(w, resp.Body)
	}
}
