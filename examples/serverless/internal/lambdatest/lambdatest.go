// Package lambdatest plays AWS in the tests of the Lambda functions.
package lambdatest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/internal/webhooktest"
	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/webhook"
)

// A Door is the AWS service in front of the function.
type Door struct {
	// Function returns the program's Lambda function.
	Function func(http.Handler) any

	// Put puts the method and the header of r into an event.
	Put func(document Document, r webhooktest.Request)
}

// Each door's event for a delivery in JSON, and for one in JSON Lines as
// base64. Both deliveries are signed with [webhooktest.Secret].
const (
	JSONFile  = "testdata/json.json"
	LinesFile = "testdata/jsonlines-base64.json"
)

// A Document is an event of AWS Lambda.
type Document map[string]any

// Read returns the event that a file holds.
func Read(t *testing.T, file string) Document {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var d Document
	require.NoError(t, json.Unmarshal(text, &d))
	return d
}

// Object returns the object at a path in the document.
func (d Document) Object(path ...string) map[string]any {
	object := map[string]any(d)
	for _, name := range path {
		object = object[name].(map[string]any)
	}
	return object
}

// Bytes returns the JSON that Lambda passes.
func (d Document) Bytes(t *testing.T) []byte {
	t.Helper()
	text, err := json.Marshal(d)
	require.NoError(t, err)
	return text
}

// PutVersion2 is a [Door]'s Put for events in the payload format 2.0.
func PutVersion2(d Document, r webhooktest.Request) {
	d.Object("requestContext", "http")["method"] = r.Method
	headers := d.Object("headers")
	delete(headers, "content-type")
	delete(headers, "mailtrap-signature")
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = strings.Join(values, ",")
	}
}

// PutVersion1 is a [Door]'s Put for events in the payload format 1.0.
func PutVersion1(d Document, r webhooktest.Request) {
	d["httpMethod"] = r.Method
	d.Object("requestContext")["httpMethod"] = r.Method
	last, all := d.Object("headers"), d.Object("multiValueHeaders")
	for _, headers := range []map[string]any{last, all} {
		delete(headers, "Content-Type")
		delete(headers, "Mailtrap-Signature")
	}
	for name, values := range r.Header {
		last[name], all[name] = values[len(values)-1], values
	}
}

// Invoke calls a function with an event, as Lambda does, and returns the
// answer.
func Invoke(t *testing.T, function any, event []byte) webhooktest.Answer {
	t.Helper()
	output, err := lambda.NewHandler(function).Invoke(t.Context(), event)
	require.NoError(t, err, "AWS would answer 502")
	return answerOf(t, output)
}

// answerOf decodes the output of a function as AWS does.
func answerOf(t *testing.T, output []byte) webhooktest.Answer {
	t.Helper()
	var response struct {
		StatusCode *int              `json:"statusCode"`
		Headers    map[string]string `json:"headers"`
		Body       string            `json:"body"`
		IsBase64   bool              `json:"isBase64Encoded"`
	}
	require.NoError(t, json.Unmarshal(output, &response))
	require.NotNil(t, response.StatusCode, "AWS would answer 200 to everything: %s", output)
	require.False(t, response.IsBase64)
	if *response.StatusCode != http.StatusOK {
		require.Equal(t, http.StatusText(*response.StatusCode)+"\n", response.Body)
	}
	header := make(http.Header)
	for name, value := range response.Headers {
		header.Set(name, value)
	}
	return webhooktest.Answer{Status: *response.StatusCode, Header: header}
}

// Test checks a Lambda function.
func Test(t *testing.T, door Door) {
	for name, encode := range map[string]func(Document, string){
		"text": func(d Document, body string) { d["body"], d["isBase64Encoded"] = body, false },
		"base64": func(d Document, body string) {
			d["body"], d["isBase64Encoded"] = base64.StdEncoding.EncodeToString([]byte(body)), true
		},
	} {
		t.Run(name, func(t *testing.T) {
			webhooktest.Test(t, func(t *testing.T, handler *mailtrapwebhook.Handler) webhooktest.Send {
				return func(t *testing.T, r webhooktest.Request) webhooktest.Answer {
					d := Read(t, JSONFile)
					door.Put(d, r)
					encode(d, r.Body)
					return Invoke(t, door.Function(handler), d.Bytes(t))
				}
			})
		})
	}
	t.Run("bodies", func(t *testing.T) { testBodies(t, door) })
}

func testBodies(t *testing.T, door Door) {
	for name, test := range map[string]struct {
		file   string
		edit   func(d Document)
		status int
		called int
	}{
		"JSON":                     {JSONFile, func(Document) {}, 200, 1},
		"JSON Lines":               {LinesFile, func(Document) {}, 200, 3},
		"broken base64":            {LinesFile, func(d Document) { d["body"] = "%" + d["body"].(string) }, 400, 0},
		"base64 cut off":           {LinesFile, func(d Document) { d["body"] = d["body"].(string)[:9] }, 400, 0},
		"base64 of something else": {LinesFile, func(d Document) { d["body"] = "e30K" }, 400, 0},
		"base64 declared as text":  {LinesFile, func(d Document) { d["isBase64Encoded"] = false }, 400, 0},
		"text declared as base64": {
			JSONFile, func(d Document) { d["isBase64Encoded"] = true }, 400, 0,
		},
		"null":           {JSONFile, func(d Document) { d["body"] = nil }, 400, 0},
		"none":           {JSONFile, func(d Document) { delete(d, "body") }, 400, 0},
		"none as base64": {LinesFile, func(d Document) { d["body"] = "" }, 400, 0},
		"no headers":     {JSONFile, func(d Document) { d["headers"], d["multiValueHeaders"] = nil, nil }, 400, 0},
	} {
		t.Run(name, func(t *testing.T) {
			handler, err := webhook.New(webhooktest.Secret)
			require.NoError(t, err)
			called := 0
			handler.OnEvent = func(context.Context, mailtrapwebhook.Event) error {
				called++
				return nil
			}
			d := Read(t, test.file)
			test.edit(d)
			require.Equal(t, test.status, Invoke(t, door.Function(handler), d.Bytes(t)).Status)
			require.Equal(t, test.called, called)
		})
	}
}

// Request returns the request that a function passes to its handler, and the
// body.
func Request(t *testing.T, door Door, d Document) (got *http.Request, body string) {
	t.Helper()
	function := door.Function(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		got, body = r, string(text)
	}))
	require.Equal(t, 200, Invoke(t, function, d.Bytes(t)).Status)
	return got, body
}

// TestProgram runs the program as Lambda does. An API hands out the events and
// takes the responses.
func TestProgram(t *testing.T) {
	api := newRuntimeAPI()
	server := httptest.NewServer(api)
	t.Cleanup(server.Close) // after the program has ended, which waits there for events
	address := "AWS_LAMBDA_RUNTIME_API=" + strings.TrimPrefix(server.URL, "http://")

	webhooktest.RequireNeedsSecret(t, webhooktest.Self(t), address)
	require.Empty(t, api.asked, "the program asked for events without a secret")

	printed, _ := webhooktest.Start(t, webhooktest.Self(t), address)
	forged := Read(t, JSONFile)
	forged["body"] = strings.Replace(forged["body"].(string), "receiver@", "somebody@", 1)
	broken := Read(t, LinesFile)
	broken["body"] = "%"
	for i, step := range []struct {
		document Document
		status   int
	}{
		{Read(t, JSONFile), 200}, {forged, 400}, {broken, 400}, {Read(t, LinesFile), 200},
	} {
		id := fmt.Sprintf("request-%d", i)
		output, err := api.invoke(t.Context(), id, step.document.Bytes(t))
		require.NoError(t, err, printed())
		require.Equal(t, step.status, answerOf(t, output).Status, printed())
		require.Contains(t, printed(), "requestId="+id)
	}
	require.Equal(t, 4, strings.Count(printed(), "event received"), printed())
	require.Equal(t, 1, strings.Count(printed(), "isBase64Encoded"), printed())
	webhooktest.RequireNothingPersonal(t, printed())
}

// A runtimeAPI is Lambda's runtime API, which is described at
// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html.
type runtimeAPI struct {
	http.ServeMux
	asked     chan struct{} // has an element once a program asked for an event
	events    chan invocation
	responses chan result
}

type invocation struct {
	id    string
	event []byte
}

type result struct {
	invocation string
	verdict    string // response or error
	output     []byte
}

func newRuntimeAPI() *runtimeAPI {
	api := &runtimeAPI{
		asked:     make(chan struct{}, 1),
		events:    make(chan invocation),
		responses: make(chan result, 1),
	}
	api.HandleFunc("GET /2018-06-01/runtime/invocation/next", api.next)
	api.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/{verdict}", api.take)
	return api
}

func (api *runtimeAPI) next(w http.ResponseWriter, r *http.Request) {
	select {
	case api.asked <- struct{}{}:
	default:
	}
	select {
	case next := <-api.events:
		w.Header().Set("Lambda-Runtime-Aws-Request-Id", next.id)
		w.Header().Set("Lambda-Runtime-Deadline-Ms", fmt.Sprint(time.Now().Add(30*time.Second).UnixMilli()))
		w.Header().Set("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:123456789012:function:mailtrap")
		_, _ = w.Write(next.event)
	case <-r.Context().Done():
	}
}

func (api *runtimeAPI) take(w http.ResponseWriter, r *http.Request) {
	output, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	api.responses <- result{r.PathValue("id"), r.PathValue("verdict"), output}
}

// invoke hands an event to the program and returns the program's output.
func (api *runtimeAPI) invoke(ctx context.Context, id string, event []byte) (output []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	select {
	case api.events <- invocation{id, event}:
	case <-ctx.Done():
		return nil, fmt.Errorf("the program does not ask for an event: %w", ctx.Err())
	}
	select {
	case got := <-api.responses:
		if got.invocation != id || got.verdict != "response" {
			return nil, fmt.Errorf("%s of %s: %s", got.verdict, got.invocation, got.output)
		}
		return got.output, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("the program does not answer: %w", ctx.Err())
	}
}
