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
	"strings"
	"sync/atomic"
	"unicode"
)

// SignatureHeader is the request header that holds the signature: 64
// hexadecimal digits, the HMAC-SHA256 of the raw body. The key is the webhook's
// signing secret.
const SignatureHeader = "Mailtrap-Signature"

// maxBodyBytes is the default limit of a body. Mailtrap sends at most 500 events
// in a request, which are about 200 kB; 8 MiB leave room for 40 times as much.
const maxBodyBytes = 8 << 20

// The errors of [Verify] and of the methods of [Verifier]. Test for them with
// [errors.Is].
var (
	ErrNoSecret = errors.New("mailtrapwebhook: the signing secret is missing or blank:" +
		" pass the one from the webhook's settings (is an environment variable unset?)")
	ErrEmptyBody = errors.New("mailtrapwebhook: the body is empty:" +
		" verify it before other code reads it")
	ErrMissingSignature = errors.New("mailtrapwebhook: the " + SignatureHeader + " header is missing or empty:" +
		" if Mailtrap sent the request, let proxies pass the header on")
	ErrInvalidSignature = errors.New("mailtrapwebhook: the signature does not match the body:" +
		" check the secret, and that nothing changes the body; Diagnose may name the cause")
)

// Sign returns the value of [SignatureHeader] for body. It is meant for tests
// and tools. A receiver must call [Verify], which compares in constant time.
//
// The key is the secret as text: its 32 hexadecimal digits, not the 16 bytes
// that they spell. White space around the secret is ignored. If the secret is
// blank, Sign returns "", which no receiver accepts.
func Sign(body []byte, secret string) string {
	if isBlank(secret) {
		// The HMAC with an empty key would be a signature that anyone can make.
		return ""
	}
	return hex.EncodeToString(mac(secret, body))
}

// isBlank reports whether a secret has nothing but white space, characters
// without a width, and quotes. Files of variables with SECRET="" may yield two
// quotes, and NUL bytes are the same HMAC key as no secret at all.
func isBlank(secret string) bool {
	return strings.IndexFunc(secret, func(r rune) bool {
		return !unicode.IsSpace(r) && !unicode.Is(unicode.Cf, r) && !strings.ContainsRune("\x00\"'", r)
	}) < 0
}

// mac returns the HMAC of a body that may be in several parts.
func mac(secret string, body ...[]byte) []byte {
	// A secret that is read from a file often ends in a newline. Trimming here
	// covers every way in which a secret is used.
	h := hmac.New(sha256.New, []byte(strings.TrimSpace(secret)))
	for _, part := range body {
		h.Write(part)
	}
	return h.Sum(nil)
}

// Verify returns nil if signature, the value of [SignatureHeader], is the
// signature of body under any of the secrets. Otherwise its error wraps
// [ErrNoSecret], [ErrEmptyBody], [ErrMissingSignature] or
// [ErrInvalidSignature].
//
// Pass the raw body. Do not parse it first: encoding it again changes its bytes.
//
// Each Mailtrap webhook has its own secret. Pass several secrets if one URL
// serves several webhooks, or while you rotate a secret. White space around a
// secret is ignored. A blank secret anywhere in the list is an error, even if
// another secret matches, because an unset variable must not go unnoticed.
//
// Verify tries every secret every time and compares in constant time. It
// accepts upper-case hexadecimal digits.
func Verify(body []byte, signature string, secrets ...string) error {
	_, err := match(signature, secrets, body)
	return err
}

// match returns the index of the first secret under which signature is that of
// the body, whose parts it reads as one.
func match(signature string, secrets []string, body ...[]byte) (int, error) {
	if err := checkSecrets(secrets); err != nil {
		return 0, err
	}
	given, err := decodeSignature(signature)
	switch {
	case !slices.ContainsFunc(body, func(part []byte) bool { return len(part) > 0 }):
		return 0, ErrEmptyBody
	case err != nil:
		return 0, err
	}
	found := -1
	// No early exit: the time must not tell which secret matched. Going backwards
	// leaves the first match in found. Signatures of another length match nothing.
	for i, secret := range slices.Backward(secrets) {
		equal := subtle.ConstantTimeCompare(mac(secret, body...), given)
		found = subtle.ConstantTimeSelect(equal, i, found)
	}
	if found < 0 {
		return 0, ErrInvalidSignature
	}
	return found, nil
}

// checkSecrets returns an error that wraps ErrNoSecret if there is no secret or
// one is blank.
func checkSecrets(secrets []string) error {
	blank := slices.IndexFunc(secrets, isBlank)
	switch {
	case len(secrets) == 0, blank == 0 && len(secrets) == 1:
		return ErrNoSecret
	case blank >= 0:
		return blankSecretError{blank + 1, len(secrets)}
	}
	return nil
}

// A blankSecretError says which of several secrets is blank.
type blankSecretError struct{ number, of int }

func (e blankSecretError) Unwrap() error { return ErrNoSecret }

func (e blankSecretError) Error() string {
	return fmt.Sprintf("mailtrapwebhook: signing secret %d of %d is blank:"+
		" pass the one from the webhook's settings (is an environment variable unset?)", e.number, e.of)
}

func decodeSignature(signature string) ([]byte, error) {
	if signature == "" {
		return nil, ErrMissingSignature
	}
	given, err := hex.DecodeString(signature)
	if err != nil {
		// The error of hex quotes the signature, which must not reach a log.
		return nil, ErrInvalidSignature
	}
	return given, nil
}

// A Verifier checks signatures with one or more signing secrets. You can replace
// the secrets while it is in use. It is safe for concurrent use and must not be
// copied after first use.
//
// A nil or zero Verifier has no secret and refuses everything with
// [ErrNoSecret]. Printing, logging or encoding a Verifier never shows its
// secrets.
type Verifier struct {
	secrets atomic.Pointer[[]string]
}

// NewVerifier returns a [Verifier] that accepts signatures made with any of the
// secrets. White space around a secret is ignored. NewVerifier returns an error
// that wraps [ErrNoSecret] if there is no secret or one is blank.
func NewVerifier(secrets ...string) (*Verifier, error) {
	v := new(Verifier)
	if err := v.SetSecrets(secrets...); err != nil {
		return nil, err
	}
	return v, nil
}

// SetSecrets replaces the secrets. Calls in progress finish with the old ones.
// If there is no secret or one is blank, SetSecrets returns an error that wraps
// [ErrNoSecret], and the old secrets stay.
//
// While you rotate a secret, set both. Mailtrap stops using the old secret at
// once, but retries that were signed with it may still arrive.
func (v *Verifier) SetSecrets(secrets ...string) error {
	if err := checkSecrets(secrets); err != nil {
		return err
	}
	own := slices.Clone(secrets)
	v.secrets.Store(&own)
	return nil
}

// current returns the secrets, or nil if there is none.
func (v *Verifier) current() []string {
	if v == nil {
		return nil
	}
	if p := v.secrets.Load(); p != nil {
		return *p
	}
	return nil
}

// Verify calls the function [Verify] with the Verifier's secrets.
func (v *Verifier) Verify(body []byte, signature string) error {
	return Verify(body, signature, v.current()...)
}

// Parse verifies body and then decodes it like the function [Parse]. It decodes
// nothing, and returns no events, unless the signature matches.
//
// To answer as [Handler] does, reply 500 to [ErrNoSecret], 422 to a
// [*DecodeError], and 400 to any other error. Gateways may spell the header
// mailtrap-signature, and may hand over the body as base64: decode it first.
func (v *Verifier) Parse(body []byte, signature string) ([]Event, error) {
	if err := v.Verify(body, signature); err != nil {
		return nil, err
	}
	return Parse(body)
}

// VerifyRequest reads the body of r, verifies it against the request's
// [SignatureHeader] and returns it. Use it in your own handlers; a [Handler] does
// this and more. On an error it returns no body.
//
// VerifyRequest reads at most 8 MiB. The error for a larger body is an
// [*http.MaxBytesError]. Two or more signature headers are
// [ErrInvalidSignature]. Errors of the connection are returned as they are;
// their texts may name the client's address.
//
// Call VerifyRequest before other code reads the body. If other code has read or
// closed it, the error says so. It wraps [http.ErrBodyReadAfterClose] if the
// body was closed.
//
// If VerifyRequest could read the body, r.Body is readable again from its start,
// whether or not the signature matched. You can call VerifyRequest again.
func (v *Verifier) VerifyRequest(r *http.Request) (body []byte, err error) {
	if len(v.current()) == 0 {
		// No request can succeed until this is fixed, so it comes first.
		return nil, ErrNoSecret
	}
	signature, err := signatureOf(r)
	if err != nil {
		return nil, err
	}
	if body, err = bufferBody(r); err != nil {
		return nil, err
	}
	if err := v.Verify(body, signature); err != nil {
		if int64(len(body)) < r.ContentLength {
			return nil, bodyReadBefore(err)
		}
		return nil, err
	}
	return body, nil
}

// signatureOf returns the only signature header of r. Several are refused:
// Mailtrap sends one, so someone else added the others.
func signatureOf(r *http.Request) (string, error) {
	switch values := r.Header.Values(SignatureHeader); len(values) {
	case 0:
		return "", ErrMissingSignature
	case 1:
		return values[0], nil
	default:
		return "", &explainedError{
			fmt.Sprintf("the request has %d %s headers: refuse it, because Mailtrap sends one",
				len(values), SignatureHeader),
			ErrInvalidSignature,
		}
	}
}

// A bufferedBody is a request body that can be read again.
type bufferedBody struct {
	*bytes.Reader
	io.Closer        // of the body that it replaces
	content   []byte // what Reader reads
}

// bufferBody reads the body of r and puts one in its place that reads the same.
func bufferBody(r *http.Request) ([]byte, error) {
	if b, ok := r.Body.(*bufferedBody); ok {
		// This is the body of an earlier VerifyRequest, even if it was read since.
		b.Reset(b.content)
		return b.content, nil
	}
	if r.ContentLength > maxBodyBytes {
		return nil, &http.MaxBytesError{Limit: maxBodyBytes}
	}
	if r.Body == nil {
		return nil, nil
	}
	body, err := readAll(http.MaxBytesReader(nil, r.Body, maxBodyBytes), r.ContentLength)
	switch {
	case closedBefore(err):
		return nil, bodyReadBefore(http.ErrBodyReadAfterClose)
	case err != nil:
		return nil, err
	}
	r.Body = &bufferedBody{bytes.NewReader(body), r.Body, body}
	return body, nil
}

// Sizes of the first buffer of readAll. 500 events fit in trustedLength: a body
// of that size is read without copying. Anyone can announce a length, so that a
// connection which sends nothing can take no more than trustedLength.
const (
	trustedLength = 256 << 10
	unknownLength = 32 << 10
)

// readAll does what io.ReadAll does, but uses the announced length of what it
// reads. That saves the copies of a growing buffer, a fifth of a delivery's time.
func readAll(r io.Reader, length int64) ([]byte, error) {
	size := unknownLength
	if length >= 0 {
		// One byte more lets the last Read see the end without growing the buffer.
		size = int(min(length, trustedLength)) + 1
	}
	body := make([]byte, 0, size)
	for empty := 0; empty < maxEmptyReads; empty++ {
		n, err := r.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if n > 0 {
			empty = 0
		}
		switch {
		case err == io.EOF:
			return body, nil
		case err != nil:
			return nil, err
		case len(body) == cap(body):
			body = slices.Grow(body, len(body)) // doubles, as more bytes arrive
		}
	}
	return nil, io.ErrNoProgress
}

// closedBefore reports whether err says that a request's body was closed before
// it was read.
func closedBefore(err error) bool {
	// Over HTTP/2, net/http returns an error that has a text but no name.
	return errors.Is(err, http.ErrBodyReadAfterClose) || err != nil && err.Error() == "body closed by handler"
}

// bodyReadBefore returns the error for a body that other code has read or closed.
// A body shorter than its Content-Length shows that it was read. cause is the
// error that it led to.
func bodyReadBefore(cause error) error {
	return &explainedError{"other code read or closed the body first:" +
		" verify before middleware, form parsing or logging that reads it", cause}
}

// An explainedError has a text of its own instead of the text of the error that
// it wraps.
type explainedError struct {
	text string
	err  error
}

func (e *explainedError) Error() string { return "mailtrapwebhook: " + e.text }
func (e *explainedError) Unwrap() error { return e.err }

// Middleware returns a handler that calls next for requests that
// [Verifier.VerifyRequest] accepts. Their bodies are readable from the start. It
// answers other requests with 400, with 413 if the body is over 8 MiB, or with
// 500 if the Verifier has no secret.
//
// Mount it before everything that reads the body. Middleware does not look at
// the method, logs nothing, and limits neither the time of a request nor the
// number of bodies in memory. [Handler] does all of these.
//
// Middleware panics if next is nil.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	if next == nil {
		panic("mailtrapwebhook: the handler passed to Middleware is nil: pass the one for verified requests")
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

// refusal returns the status that answers a body that failed verification.
func refusal(err error) int {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrNoSecret):
		return http.StatusInternalServerError
	default:
		// Mailtrap: "Reject the request with a 400 Bad Request status".
		return http.StatusBadRequest
	}
}

// String returns the number of secrets, never the secrets.
func (v *Verifier) String() string {
	return fmt.Sprintf("mailtrapwebhook.Verifier(%d secrets)", len(v.current()))
}

// GoString returns what String returns, for %#v.
func (v *Verifier) GoString() string { return v.String() }
