package mailtrapwebhook

import (
	"errors"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/diagnose"
)

// Diagnose explains why signature is not the signature of body under any of the
// secrets. It returns nil if [Verify] does. Otherwise its error wraps the same
// sentinel as the error of Verify, and its text names the cause and the fix.
//
// Diagnose undoes what often happens to a body, a secret or a header on the way,
// such as encoding the JSON again. Then it computes the signature anew. If that
// matches, the cause is proved. If nothing can be proved, the text names what
// looks wrong, such as the header of another provider, or what to check. The text
// is safe to log: it holds no secret, no signature and no part of the body.
//
// Call it in a test, at a terminal, or for a rare log line, never on every
// request. It computes dozens of HMACs, and anyone can send a wrong signature.
// The [Handler] calls it at most once a minute, for bodies of up to 1 MiB. Never
// accept a request because of what it returns.
func Diagnose(body []byte, signature string, secrets ...string) error {
	err := Verify(body, signature, secrets...)
	if !errors.Is(err, ErrInvalidSignature) {
		// The other errors of Verify name the one thing that is wrong.
		return err
	}
	return &explainedError{diagnose.Mismatch(SignatureHeader, body, signature, secrets), err}
}
