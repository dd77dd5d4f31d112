package lambdahttp

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/aws-lambda-go/events"
)

// An event has what the events of all services have in common.
type event struct {
	method, path, query string
	header              http.Header
	sourceIP            string
	body                string
	isBase64            bool
	isALB, isMultiValue bool // decide the form of the response
}

// parseEvent reads the event of any of the services. Each has a part of
// requestContext of its own, which no client can write.
func parseEvent(payload []byte) (event, error) {
	var kind struct {
		HTTPMethod     string `json:"httpMethod"`
		RequestContext struct {
			ELB  json.RawMessage `json:"elb"`
			HTTP json.RawMessage `json:"http"`
		} `json:"requestContext"`
	}
	if err := json.Unmarshal(payload, &kind); err != nil {
		return event{}, errNoRequest
	}
	switch {
	case kind.RequestContext.ELB != nil:
		return read(payload, ofALB)
	case kind.RequestContext.HTTP != nil:
		return read(payload, ofVersion2)
	case kind.HTTPMethod != "":
		return read(payload, ofVersion1)
	}
	return event{}, errNoRequest
}

var errNoRequest = errors.New("lambdahttp: the event is not an HTTP request: invoke the function by a function URL," +
	" an API Gateway or an Application Load Balancer")

func read[T any](payload []byte, convert func(T) event) (event, error) {
	var from T
	if err := json.Unmarshal(payload, &from); err != nil {
		return event{}, errNoRequest
	}
	return convert(from), nil
}

// ofVersion2 reads an event of a function URL, or of an HTTP API with payload
// format 2.0. The names of headers are in lower case, and several values are
// joined with commas. The body is base64 if the Content-Type is neither JSON
// nor text, so that JSON Lines are.
func ofVersion2(req events.APIGatewayV2HTTPRequest) event {
	return event{
		method:   req.RequestContext.HTTP.Method,
		path:     req.RawPath,
		query:    req.RawQueryString,
		header:   headerOf(req.Headers, nil),
		sourceIP: req.RequestContext.HTTP.SourceIP,
		body:     req.Body,
		isBase64: req.IsBase64Encoded,
	}
}

// ofVersion1 reads an event of a REST API, or of an HTTP API with payload
// format 1.0. The names of headers come as the client wrote them. The body is
// base64 if the API's binaryMediaTypes list the Content-Type. Any other body is
// text, which keeps the signed bytes if they are UTF-8.
func ofVersion1(req events.APIGatewayProxyRequest) event {
	return event{
		method:       req.HTTPMethod,
		path:         req.Path,
		query:        url.Values(req.MultiValueQueryStringParameters).Encode(), // the gateway has unescaped them
		header:       headerOf(req.Headers, req.MultiValueHeaders),
		sourceIP:     req.RequestContext.Identity.SourceIP,
		body:         req.Body,
		isBase64:     req.IsBase64Encoded,
		isMultiValue: len(req.MultiValueHeaders) > 0,
	}
}

// ofALB reads an event of an Application Load Balancer. The target group's
// attribute lambda.multi_value_headers.enabled says which headers and query it
// has. The body is base64 if the Content-Type is neither JSON nor text.
func ofALB(req events.ALBTargetGroupRequest) event {
	header := headerOf(req.Headers, req.MultiValueHeaders)
	return event{
		method:       req.HTTPMethod,
		path:         req.Path,
		query:        rawQuery(req.QueryStringParameters, req.MultiValueQueryStringParameters),
		header:       header,
		sourceIP:     lastHop(header),
		body:         req.Body,
		isBase64:     req.IsBase64Encoded,
		isALB:        true,
		isMultiValue: len(req.MultiValueHeaders) > 0,
	}
}

// headerOf returns the header of an event. It reads all if the event has them:
// single keeps only the last value, and a second signature must not go unseen.
func headerOf(single map[string]string, all map[string][]string) http.Header {
	// Add joins a header that comes under several names, which differ in case.
	header := make(http.Header)
	for name, values := range all {
		for _, value := range values {
			header.Add(name, value)
		}
	}
	if len(all) == 0 {
		for name, value := range single {
			header.Add(name, value)
		}
	}
	return header
}

// rawQuery returns the query of parameters that are still escaped.
func rawQuery(single map[string]string, all map[string][]string) string {
	var pairs []string
	for name, values := range all {
		for _, value := range values {
			pairs = append(pairs, name+"="+value)
		}
	}
	for name, value := range single {
		pairs = append(pairs, name+"="+value)
	}
	// A map has no order. The values of one name keep theirs.
	slices.SortStableFunc(pairs, func(a, b string) int {
		a, _, _ = strings.Cut(a, "=")
		b, _, _ = strings.Cut(b, "=")
		return strings.Compare(a, b)
	})
	return strings.Join(pairs, "&")
}

// lastHop returns the address that the load balancer has appended to
// X-Forwarded-For. What stands before it is the client's claim. The load
// balancer must not preserve or remove the header, and may append the port.
func lastHop(header http.Header) string {
	hops := strings.Split(strings.Join(header.Values("X-Forwarded-For"), ","), ",")
	hop := strings.TrimSpace(hops[len(hops)-1])
	if addr, err := netip.ParseAddrPort(hop); err == nil {
		return addr.Addr().String()
	}
	return hop
}

func (ev event) request() (*http.Request, error) {
	body := []byte(ev.body)
	if ev.isBase64 { // the signature covers the bytes before the encoding
		var err error
		if body, err = base64.StdEncoding.DecodeString(ev.body); err != nil {
			return nil, fmt.Errorf("lambdahttp: isBase64Encoded is set but the body is not base64: pass both on unchanged: %w", err)
		}
	}
	return &http.Request{
		Method:        ev.method,
		URL:           &url.URL{Path: ev.path, RawQuery: ev.query},
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        ev.header,
		Host:          ev.header.Get("Host"),
		RemoteAddr:    net.JoinHostPort(ev.sourceIP, "0"), // events have no port
		Body:          io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)),
	}, nil
}
