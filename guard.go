package mailtrapwebhook

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"
)

// A Guard checks a request before its body is read. A non-nil error refuses the
// request: with status 401 if the error wraps [ErrUnauthorized], else with 403.
// A Guard must not read the body and must be safe for concurrent use. It must
// return when the request's context ends. The Handler ends it when Timeout is
// over.
type Guard func(r *http.Request) error

// The errors that tell the [Handler] how to answer a refused request.
var (
	// ErrUnauthorized is answered with 401 and a Basic challenge.
	ErrUnauthorized = errors.New("mailtrapwebhook: the request lacks valid credentials")

	// ErrForbidden is answered with 403.
	ErrForbidden = errors.New("mailtrapwebhook: the request is not allowed")
)

// BasicAuth returns a [Guard] that requires the user name and the password of
// the webhook's URL. It compares both in constant time, whatever their lengths,
// and ignores white space around them. If either is blank, the Guard refuses
// every request.
func BasicAuth(username, password string) Guard {
	if isBlank(username) || isBlank(password) {
		return misconfigured(ErrUnauthorized, "BasicAuth has an empty user name or password:"+
			" pass those of the webhook's URL (is an environment variable unset?)")
	}
	if strings.Contains(username, ":") {
		return misconfigured(ErrUnauthorized, "BasicAuth has a colon in the user name, which ends there in HTTP:"+
			" pass the password as the second argument")
	}
	wantName, wantPassword := credentialDigest(username), credentialDigest(password)
	return func(r *http.Request) error {
		name, password, ok := r.BasicAuth()
		if !ok {
			return fmt.Errorf("%w: put user name and password into the webhook's URL", ErrUnauthorized)
		}
		// A single & compares both even if the first differs.
		if sameDigest(wantName, name)&sameDigest(wantPassword, password) != 1 {
			return fmt.Errorf("%w: check the user name and password in the webhook's URL", ErrUnauthorized)
		}
		return nil
	}
}

// QueryToken returns a [Guard] that requires the token as the only value of the
// query parameter name in the webhook's URL. It compares the token in constant
// time and ignores white space around it. If name or token is blank, the Guard
// refuses every request.
func QueryToken(name, token string) Guard {
	if isBlank(name) || isBlank(token) {
		return misconfigured(ErrForbidden, "QueryToken has an empty name or token:"+
			" pass those of the webhook's URL (is an environment variable unset?)")
	}
	name, want := strings.TrimSpace(name), credentialDigest(token)
	return func(r *http.Request) error {
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			// The error of package url quotes the query, which may hold the token.
			return fmt.Errorf("%w: the query of its URL is malformed", ErrForbidden)
		}
		values := query[name]
		switch {
		case len(values) != 1:
			return fmt.Errorf("%w: its URL has %d tokens: put one into the webhook's URL", ErrForbidden, len(values))
		case sameDigest(want, values[0]) != 1:
			return fmt.Errorf("%w: check the token in the webhook's URL", ErrForbidden)
		}
		return nil
	}
}

func credentialDigest(secret string) [sha256.Size]byte {
	return sha256.Sum256([]byte(strings.TrimSpace(secret)))
}

// sameDigest returns 1 if want is the digest of given, else 0. Digests have one
// length, so that the time does not tell the length of the secret.
func sameDigest(want [sha256.Size]byte, given string) int {
	got := credentialDigest(given)
	return subtle.ConstantTimeCompare(want[:], got[:])
}

// A brokenGuard refuses every request, because it was set up wrongly.
type brokenGuard struct{ err error }

func (g *brokenGuard) refuse(*http.Request) error { return g.err }

// misconfigured returns a Guard that refuses every request. Its error wraps
// sentinel but has only the text: the request is not to blame.
func misconfigured(sentinel error, text string) Guard {
	return (&brokenGuard{&explainedError{text, sentinel}}).refuse
}

var brokenRefuse = reflect.ValueOf((*brokenGuard)(nil).refuse).Pointer()

// guardFault returns the error of a Guard of this package that refuses every
// request because it was set up wrongly. It never calls other guards: they may
// count or remember the requests that they see.
func guardFault(guard Guard) error {
	// All method values of one method share their code. Were that to change, the
	// fault would still show at the first request.
	if reflect.ValueOf(guard).Pointer() != brokenRefuse {
		return nil
	}
	return guard(nil)
}
