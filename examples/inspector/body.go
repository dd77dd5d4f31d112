package main

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// The bounds are those of a [mailtrapwebhook.Handler].
const (
	maxBody     = 8 << 20
	maxInFlight = 64 << 20 // of all bodies that are not answered yet
	readTimeout = 25 * time.Second
)

// firstBuffer is the most that a body gets before a byte of it arrives: anybody
// can announce a length. 500 events fit.
const firstBuffer = 256 << 10

// Bodies reads the bodies of deliveries into memory that they share. Nobody
// waits for memory: Mailtrap sends a refused delivery again.
type bodies struct {
	timeout time.Duration

	mu   sync.Mutex
	left int // bytes
}

func newBodies() *bodies { return &bodies{timeout: readTimeout, left: maxInFlight} }

func (b *bodies) take(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.left {
		return false
	}
	b.left -= n
	return true
}

func (b *bodies) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
}

// A refusal is the reason that a request gets no further, and the status that
// says so.
type refusal struct {
	status int
	reason string
}

func (r *refusal) Error() string { return r.reason }

var (
	errTooLarge = &refusal{http.StatusRequestEntityTooLarge,
		"the body is over 8 MiB: Mailtrap sends far less, so find out who sent it"}
	errBusy = &refusal{http.StatusServiceUnavailable,
		"the bodies that are not answered yet take 64 MiB: let the sender try again"}
	errSlow = &refusal{http.StatusServiceUnavailable,
		"the body did not arrive in 25 seconds: look for a slow tunnel or proxy"}
	errCutOff = &refusal{http.StatusBadRequest,
		"the body broke off: look at the sender, or the tunnel between"}
)

// read reads the body of a delivery. The caller must call release when the
// delivery is answered.
func (b *bodies) read(w http.ResponseWriter, r *http.Request) (body []byte, release func(), err error) {
	if r.ContentLength > maxBody {
		return nil, nil, errTooLarge
	}
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(b.timeout)) // a run's request has no connection
	charged := 0
	giveBack := func() { b.give(charged) }
	defer func() {
		if err == nil {
			// A deadline would end the context while the app answers.
			_ = deadline.SetReadDeadline(time.Time{})
			return
		}
		if err != errSlow {
			// net/http reads on for a while, for clients that listen late.
			_ = deadline.SetReadDeadline(time.Now().Add(time.Second))
		}
		giveBack()
	}()
	grow := func(size int) error {
		if !b.take(size - charged) {
			return errBusy
		}
		charged = size
		body = append(make([]byte, 0, size), body...)
		return nil
	}
	// One byte more than the body has shows its end without another buffer.
	most := maxBody + 1
	if r.ContentLength >= 0 {
		most = int(r.ContentLength) + 1
	}
	if err := grow(min(most, firstBuffer)); err != nil {
		return nil, nil, err
	}
	for {
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case len(body) > maxBody:
			return nil, nil, errTooLarge
		case err == io.EOF:
			if r.ContentLength < 0 {
				body = bytes.Clone(body) // the buffer may be twice as large
			}
			return body, giveBack, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, nil, errSlow
		case err != nil:
			return nil, nil, errCutOff
		case len(body) == cap(body):
			if err := grow(min(2*cap(body), most)); err != nil {
				return nil, nil, err
			}
		}
	}
}
