package mailtrapwebhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
)

// SignatureHeader is the request header in which Mailtrap sends the signature: 64 hexadecimal digits, the
// HMAC-SHA256 of the raw body keyed with the webhook's signing secret.
const SignatureHeader = "Mailtrap-Signature"

// maxBodyBytes bounds a body where the caller has not set a limit. Mailtrap sends at most 500 events in a request,
// which comes to a few hundred kilobytes.
const maxBodyBytes = 8 << 20

// What [Verify] and its relatives refuse a request for. Test for them with [errors.Is].
var (
	ErrNoSecret = errors.New("mailtrapwebhook: no signing secret: pass the one shown in the webhook's settings" +
		" (is an environment variable unset?)")
	ErrEmptyBody = errors.New("mailtrapwebhook: the body is empty:" +
		" verify the raw body before anything else reads it")
	ErrMissingSignature = errors.New("mailtrapwebhook: no " + SignatureHeader + " header:" +
		" the request is not from Mailtrap, or a proxy removed the header")
	ErrInvalidSignature = errors.New("mailtrapwebhook: the signature does not match the body:" +
		" the secret is another webhook's, the body was altered, or the request is forged; Diagnose may tell which")
)

// Sign returns the value that Mailtrap puts in [SignatureHeader] for body. It serves tests, replays and tools; a
// receiver calls [Verify], which compares in constant time.
//
// The key is the secret as text: the ASCII bytes of its 32 hexadecimal digits, not the 16 bytes that they spell.
func Sign(body []byte, secret string) string {
	return hex.EncodeToString(mac(secret, body))
}

// mac takes the body in parts, so that it need not be in one piece.
func mac(secret string, body ...[]byte) []byte {
	h := hmac.New(sha256.New, []byte(secret))
	for _, part := range body {
		h.Write(part)
	}
	return h.Sum(nil)
}

// Verify reports whether signature, the value of [SignatureHeader], is that of body under any one of the secrets: it
// returns nil or an error that wraps [ErrNoSecret], [ErrEmptyBody], [ErrMissingSignature] or [ErrInvalidSignature].
// Each Mailtrap webhook has a secret of its own, so a URL that serves several of them, or one whose secret is being
// changed, has several.
//
// body must be the bytes as they came. Do not parse the body first: no encoder gives the same bytes back.
//
// An empty secret anywhere in the list is an error, even if another one matches: an unset variable must not open the
// door. Every secret is tried every time and compared in constant time. Upper-case hexadecimal digits are accepted.
func Verify(body []byte, signature string, secrets ...string) error {
	_, err := match(signature, secrets, body)
	return err
}

// match returns the index of the first secret under which signature is that of body.
func match(signature string, secrets []string, body ...[]byte) (int, error) {
	empty := !slices.ContainsFunc(body, func(part []byte) bool { return len(part) > 0 })
	switch {
	case len(secrets) == 0 || slices.Contains(secrets, ""):
		return 0, ErrNoSecret
	case empty:
		return 0, ErrEmptyBody
	case signature == "":
		return 0, ErrMissingSignature
	case len(signature) != hex.EncodedLen(sha256.Size):
		return 0, ErrInvalidSignature
	}
	given, err := hex.DecodeString(signature)
	if err != nil {
		return 0, ErrInvalidSignature // err quotes the signature
	}
	found := -1
	for i := len(secrets) - 1; i >= 0; i-- { // backwards, so that the first match is the one that stays
		equal := subtle.ConstantTimeCompare(mac(secrets[i], body...), given)
		found = subtle.ConstantTimeSelect(equal, i, found)
	}
	if found < 0 {
		return 0, ErrInvalidSignature
	}
	return found, nil
}

// A Verifier checks signatures against one or more signing secrets, which can be replaced while it is in use. It is
// safe for concurrent use.
//
// A nil or zero Verifier has no secret and refuses everything with [ErrNoSecret]. No way of printing, logging or
// encoding a Verifier shows its secrets.
type Verifier struct {
	secrets atomic.Pointer[[]string]
}

// NewVerifier returns a [Verifier] that accepts the signatures made with any of the secrets, each taken as it is, with
// any white space around it. It returns [ErrNoSecret] if there is none or one of them is empty.
func NewVerifier(secrets ...string) (*Verifier, error) {
	v := new(Verifier)
	if err := v.SetSecrets(secrets...); err != nil {
		return nil, err
	}
	return v, nil
}

// SetSecrets replaces the secrets. A verification under way finishes with the ones it began with. As [NewVerifier]
// does, it returns [ErrNoSecret] if there is none or one of them is empty; the old ones then stay.
//
// Mailtrap kills the old secret at the moment it is reset, but a retried request may be signed with either: set both
// for the time of a change.
func (v *Verifier) SetSecrets(secrets ...string) error {
	if len(secrets) == 0 || slices.Contains(secrets, "") {
		return ErrNoSecret
	}
	own := slices.Clone(secrets)
	v.secrets.Store(&own)
	return nil
}

func (v *Verifier) current() []string {
	if v == nil {
		return nil
	}
	if p := v.secrets.Load(); p != nil {
		return *p
	}
	return nil
}

// Verify is [Verify] with the verifier's secrets.
func (v *Verifier) Verify(body []byte, signature string) error {
	_, err := match(signature, v.current(), body)
	return err
}

// Parse verifies the body and then decodes it as the function [Parse] does. No event is returned unless the signature
// holds.
func (v *Verifier) Parse(body []byte, signature string) ([]Event, error) {
	if err := v.Verify(body, signature); err != nil {
		return nil, err
	}
	return Parse(body)
}

// VerifyRequest reads the body of r, verifies it against the request's [SignatureHeader] and returns it. It is for
// handlers of one's own; [Handler] does this and the rest.
//
// At most 8 MiB are read; a larger body is an [*http.MaxBytesError]. Two or more signature headers are refused with
// [ErrInvalidSignature]. An error of the connection is returned as it is. With an error there is no body.
//
// Whenever the body was read whole, whether or not it verified, r.Body is readable again from its start.
func (v *Verifier) VerifyRequest(r *http.Request) (body []byte, err error) {
	if len(v.current()) == 0 { // whatever the request is, this is what must be mended first
		return nil, ErrNoSecret
	}
	signature, err := signatureOf(r)
	if err != nil {
		return nil, err
	}
	if r.ContentLength > maxBodyBytes {
		return nil, &http.MaxBytesError{Limit: maxBodyBytes}
	}
	if r.Body == nil {
		return nil, ErrEmptyBody
	}
	original := r.Body
	body, err = io.ReadAll(http.MaxBytesReader(nil, original, maxBodyBytes))
	if err != nil {
		return nil, err
	}
	r.Body = &replay{Reader: bytes.NewReader(body), Closer: original}
	if err := v.Verify(body, signature); err != nil {
		return nil, err
	}
	return body, nil
}

// replay is a request body that was read and can be read again.
type replay struct {
	*bytes.Reader
	io.Closer
}

// signatureOf returns the one signature header of r. Several are refused rather than tried, because whoever put a
// second one there is not Mailtrap.
func signatureOf(r *http.Request) (string, error) {
	switch values := r.Header.Values(SignatureHeader); len(values) {
	case 0:
		return "", ErrMissingSignature
	case 1:
		return values[0], nil
	default:
		return "", fmt.Errorf("%w (%d %s headers, want one)", ErrInvalidSignature, len(values), SignatureHeader)
	}
}

// Middleware returns a handler that passes on to next only requests that [Verifier.VerifyRequest] accepts, with their
// bodies readable from the start. The others are answered 400, as Mailtrap asks for a signature that is missing or
// wrong, 413 where the body is over 8 MiB, or 500 where the verifier has no secret.
//
// It must stand in front of everything that reads the body. It looks at no method and logs nothing, and bounds neither
// the time nor the number of bodies read at once, as [Handler] does.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	if next == nil {
		panic("mailtrapwebhook: Middleware(nil): pass the handler that verified requests go to")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := v.VerifyRequest(r); err != nil {
			status := refusal(err)
			http.Error(w, http.StatusText(status), status)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// refusal is the status that answers an unverified body.
func refusal(err error) int {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrNoSecret):
		return http.StatusInternalServerError
	default:
		return http.StatusBadRequest
	}
}

// String says how many secrets there are, and never which.
func (v *Verifier) String() string {
	return fmt.Sprintf("mailtrapwebhook.Verifier(%d secrets)", len(v.current()))
}

// GoString is what %#v prints.
func (v *Verifier) GoString() string { return v.String() }
