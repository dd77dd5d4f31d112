package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/internal/programtest"
)

func TestMain(m *testing.M) { programtest.Main(m, main) }

// An API hands out the events and takes the responses, as Lambda's does.
func TestProgram(t *testing.T) {
	api := newRuntimeAPI()
	server := httptest.NewServer(api)
	t.Cleanup(server.Close) // after the program has ended, which waits there for events
	address := "AWS_LAMBDA_RUNTIME_API=" + strings.TrimPrefix(server.URL, "http://")

	programtest.RequireNeedsSecret(t, programtest.Self(t), address)
	require.Empty(t, api.asked, "the program asked for events without a secret")

	cmd := programtest.Command(t, programtest.Self(t))
	cmd.Env = append(cmd.Env, address)
	program := programtest.Start(t, cmd)
	url, balancer := readFile(t, "functionurl.json"), readFile(t, "alb.json")
	forged := bytes.Replace(url, []byte("receiver@"), []byte("somebody@"), 1)
	noBase64 := bytes.Replace(url, []byte(`"isBase64Encoded": false`), []byte(`"isBase64Encoded": true`), 1)
	for i, step := range []struct {
		event  []byte
		status int
	}{
		{url, 200}, {forged, 400}, {noBase64, 400}, {balancer, 200}, // the last is a duplicate
	} {
		id := fmt.Sprintf("request-%d", i)
		output, err := api.invoke(t.Context(), id, step.event)
		require.NoError(t, err, program.Printed(t))
		var response struct{ StatusCode int }
		require.NoError(t, json.Unmarshal(output, &response))
		require.Equal(t, step.status, response.StatusCode, program.Printed(t))
		require.Contains(t, program.Printed(t), id)
	}
	printed := program.Printed(t)
	require.Equal(t, 1, strings.Count(printed, "event received"), printed)
	require.Equal(t, 1, strings.Count(printed, "isBase64Encoded"), printed)
	require.Equal(t, 1, strings.Count(printed, "set DATABASE_URL or REDIS_URL"), printed)
	programtest.RequireNothingPersonal(t, printed)
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("../lambdahttp/testdata/" + name)
	require.NoError(t, err)
	return text
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
