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

// A handlerTransport is an [http.RoundTripper] that calls a handler instead of
// using the network.
type handlerTransport struct{ handler http.Handler }

// RoundTrip returns when the handler has returned or the request's context has
// ended. In the second case the handler runs on.
func (t handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	w := httptest.NewRecorder()
	returned := make(chan error, 1) // buffered: nobody may be waiting
	go func() {
		defer cancel() // as a server does when a handler returns
		serve(t.handler, w, serverRequest(r.WithContext(ctx)), returned)
	}()
	select {
	case err := <-returned:
		if err != nil {
			return nil, err
		}
		return w.Result(), nil
	case <-r.Context().Done():
		return nil, context.Cause(r.Context())
	}
}

// serve calls the handler and sends nil when it has returned. A handler that
// panics or ends its goroutine hangs up, as with a server.
func serve(h http.Handler, w http.ResponseWriter, r *http.Request, returned chan<- error) {
	err := errors.New("the handler hung up without an answer")
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler {
			log.Printf("webhooktest: the handler panicked: %v\n%s", v, debug.Stack())
			err = fmt.Errorf("the handler panicked: %v", v)
		}
		returned <- err
	}()
	h.ServeHTTP(w, r)
	err = nil
}
