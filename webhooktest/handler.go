package webhooktest

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
)

// A finalRecorder records the final answer, as a client gets it. A
// ResponseRecorder takes a status such as 103 Early Hints for final.
type finalRecorder struct{ *httptest.ResponseRecorder }

// WriteHeader implements [http.ResponseWriter].
func (r finalRecorder) WriteHeader(status int) {
	if status/100 != 1 || status == http.StatusSwitchingProtocols {
		r.ResponseRecorder.WriteHeader(status)
	}
}

// A handlerTransport is an [http.RoundTripper] that calls a handler instead of
// using the network.
type handlerTransport struct{ handler http.Handler }

// RoundTrip returns when the handler has returned or the request's context has
// ended. In the second case the handler runs on.
func (t handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := finalRecorder{httptest.NewRecorder()}
	returned := make(chan error, 1) // buffered: nobody may be waiting
	go func() {
		// A handler that panics or ends its goroutine hangs up, as with a
		// server.
		err := errors.New("the handler hung up without an answer")
		defer func() {
			if v := recover(); v != nil && v != http.ErrAbortHandler {
				log.Printf("webhooktest: the handler panicked: %v\n%s", v, debug.Stack())
				err = fmt.Errorf("the handler panicked: %v", v)
			}
			returned <- err
		}()
		t.handler.ServeHTTP(w, serverRequest(r))
		err = nil
	}()
	var err error
	select {
	case err = <-returned:
	case <-r.Context().Done():
	}
	// A handler that returns because the context has ended is too late, even
	// if it is seen first.
	if r.Context().Err() != nil {
		err = context.Cause(r.Context())
	}
	if err != nil {
		return nil, err
	}
	return w.Result(), nil
}
