package mailtrapwebhook_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// fullSize says that a test is to run in the size that takes minutes.
func fullSize() bool { return os.Getenv("MAILTRAPWEBHOOK_FULL") != "" }

// A forgery is a request made from a signed one, by somebody without the secret or by somebody who gets it nearly right.
type forgery struct {
	rand    *rand.Rand
	made    []string // how, for whoever has to understand a failure
	body    []byte
	headers map[string][]string // as a server would hand them over, or as it never would
}

const forgedEvent = `{"event":"click","message_id":"forged","event_id":"forged","url":"https://example.com/"}`

// seen is what forgers start from: deliveries with their signatures.
var seen = func() (seen []forgery) {
	for _, body := range [][]byte{
		[]byte(fixtureBody),
		[]byte(`{"events":[` + fixtureBody + `]}`),
		[]byte(`{"events":[` + fixtureBody + `,{"event":"open","message_id":"m","event_id":"e"}]}`),
		[]byte(fixtureBody + "\n" + forgedEvent + "\n"),
		[]byte(`{"events":[{"event":"activity_log.user.updated","actor":{"name":"Mailtrap"}},{"event":"new"}]}`),
		[]byte(`{"events":[]}`),
	} {
		seen = append(seen, forgery{body: body, headers: signedWith(directSignature(body, fixtureSecret))})
	}
	return seen
}()

func signedWith(values ...string) map[string][]string {
	return map[string][]string{mw.SignatureHeader: values}
}

// forge makes the i-th forgery, which depends on nothing else. A few are made in several ways at once.
func forge(i uint64) *forgery {
	const seed = 20240518
	f := &forgery{rand: rand.New(rand.NewPCG(seed, i))}
	from := seen[f.rand.IntN(len(seen))]
	f.body, f.headers = slices.Clone(from.body), signedWith(from.headers[mw.SignatureHeader]...)
	for range 1 + max(0, f.rand.IntN(8)-5) {
		way := forgeries[f.rand.IntN(len(forgeries))]
		f.made = append(f.made, way.name)
		way.do(f)
	}
	return f
}

// signature is the first one, or "".
func (f *forgery) signature() string {
	if values := f.headers[mw.SignatureHeader]; len(values) > 0 {
		return values[0]
	}
	return ""
}

func (f *forgery) sign(values ...string)       { f.headers = signedWith(values...) }
func (f *forgery) signMAC(mac []byte)          { f.sign(hex.EncodeToString(mac)) }
func (f *forgery) chance() bool                { return f.rand.IntN(2) == 0 }
func (f *forgery) below(n int) int             { return f.rand.IntN(max(1, n)) }
func (f *forgery) one(list ...string) string   { return list[f.rand.IntN(len(list))] }
func (f *forgery) resign(secret string)        { f.sign(directSignature(f.body, secret)) }
func (f *forgery) edit(do func(string) string) { f.sign(do(f.signature())) }

// digest is the right MAC, which a forger has not, but may come near to.
func (f *forgery) digest() []byte {
	h := hmac.New(sha256.New, []byte(fixtureSecret))
	h.Write(f.body)
	return h.Sum(nil)
}

// flip changes bits of a copy of b.
func (f *forgery) flip(b []byte, bits int) []byte {
	b = slices.Clone(b)
	for range bits {
		if len(b) > 0 {
			b[f.rand.IntN(len(b))] ^= 1 << f.rand.IntN(8)
		}
	}
	return b
}

const whiteSpace = " \t\n\r\v\f\u0085\u00a0\u2003\u200b\ufeff"

// The ways to forge. Some of them have no effect on some requests, or only turn digits into upper case.
var forgeries = []struct {
	name string
	do   func(f *forgery)
}{
	{"a bit of the signature", func(f *forgery) { f.edit(func(s string) string { return string(f.flip([]byte(s), 1)) }) }},
	{"bits of the signature", func(f *forgery) { f.edit(func(s string) string { return string(f.flip([]byte(s), 1+f.below(64))) }) }},
	{"a bit of the digest", func(f *forgery) { f.signMAC(f.flip(f.digest(), 1)) }},
	{"bits of the digest", func(f *forgery) { f.signMAC(f.flip(f.digest(), 2+f.below(64))) }},
	{"a bit of the body", func(f *forgery) { f.body = f.flip(f.body, 1) }},
	{"bits of the body", func(f *forgery) { f.body = f.flip(f.body, 2+f.below(64)) }},
	{"a bit of the secret", func(f *forgery) { f.resign(string(f.flip([]byte(fixtureSecret), 1))) }},
	{"bits of the secret", func(f *forgery) { f.resign(string(f.flip([]byte(fixtureSecret), 2+f.below(32)))) }},

	{"the secret's form", func(f *forgery) {
		decoded, _ := hex.DecodeString(fixtureSecret)
		f.resign(f.one(strings.ToUpper(fixtureSecret), fixtureSecret[1:], fixtureSecret[:31], fixtureSecret+fixtureSecret, " "+fixtureSecret,
			fixtureSecret+"\n", fixtureSecret+"\x00", string(decoded), `"`+fixtureSecret+`"`, "", "0", "null", otherSecret))
	}},
	{"a body longer or shorter", func(f *forgery) {
		switch f.below(5) {
		case 0:
			f.body = append(f.body, f.one("\n", " ", "\r\n", "\x00", "{}", forgedEvent)...)
		case 1:
			f.body = append([]byte(f.one("\n", " ", "\ufeff", "[", forgedEvent+"\n")), f.body...)
		case 2:
			f.body = f.body[:f.below(len(f.body))]
		case 3:
			f.body = f.body[f.below(len(f.body)):]
		case 4:
			f.body = append(f.body, f.body...)
		}
	}},
	{"another body", func(f *forgery) { f.body = seen[f.below(len(seen))].body }},
	{"another's signature", func(f *forgery) { f.sign(seen[f.below(len(seen))].signature()) }},
	{"a body encoded again", func(f *forgery) {
		f.body = []byte(strings.NewReplacer(f.one(`":"`, `":`, `,`, `"`), f.one(`": "`, `": `, `, `, `'`)).Replace(string(f.body)))
	}},

	{"the case of a digit", func(f *forgery) {
		f.edit(func(s string) string {
			return strings.Map(func(r rune) rune {
				if r >= 'a' && r <= 'f' && f.chance() {
					return r - 'a' + 'A'
				}
				return r
			}, s)
		})
	}},
	{"upper case", func(f *forgery) { f.edit(strings.ToUpper) }},
	{"white space", func(f *forgery) {
		blanks := []rune(whiteSpace)
		blank := strings.Repeat(string(blanks[f.below(len(blanks))]), 1+f.below(3))
		f.edit(func(s string) string {
			if at := f.below(3); at == 0 {
				return blank + s
			} else if at == 1 {
				return s + blank
			}
			at := f.below(len(s))
			return s[:at] + blank + s[at:]
		})
	}},
	{"white space for a digit", func(f *forgery) {
		f.edit(func(s string) string {
			at := f.below(len(s))
			return s[:at] + f.one(" ", "\t", "\n", "\x00") + s[min(len(s), at+1):]
		})
	}},
	{"a prefix", func(f *forgery) {
		prefix := f.one("sha256=", "SHA256=", "sha256:", "v1=", "v1,", "t=1,v1=", "0x", "0X", "\\x", "hmac ", "Bearer ", "=", ",", "{", "00")
		f.edit(func(s string) string { return prefix + s })
	}},
	{"a suffix", func(f *forgery) {
		suffix := f.one("=", "==", ",", ";", "; q=1", "\x00", "0", "00", "h", ".", "\\", "#")
		f.edit(func(s string) string { return s + suffix })
	}},
	{"quotes", func(f *forgery) {
		quote := f.one(`"`, `'`, "`", "%22")
		f.edit(func(s string) string { return quote + s + quote })
	}},
	{"cut off", func(f *forgery) { f.edit(func(s string) string { return s[:f.below(len(s))] }) }},
	{"the end", func(f *forgery) { f.edit(func(s string) string { return s[f.below(len(s)):] }) }},
	{"doubled", func(f *forgery) { f.edit(func(s string) string { return s + f.one("", ",", ", ", " ", ";") + s }) }},
	{"turned round", func(f *forgery) {
		f.edit(func(s string) string {
			b := []byte(s)
			slices.Reverse(b)
			return string(b)
		})
	}},
	{"rotated", func(f *forgery) {
		f.edit(func(s string) string {
			at := f.below(len(s))
			return s[at:] + s[:at]
		})
	}},
	{"Unicode digits", func(f *forgery) {
		letters := f.chance()
		zero := []rune{'０', '٠', '०', '𝟎', '𝟘', '０'}[f.below(6)]
		f.edit(func(s string) string {
			s = strings.Map(func(r rune) rune {
				switch {
				case r >= '0' && r <= '9' && f.chance():
					return zero + r - '0'
				case letters && r >= 'a' && r <= 'f' && f.below(4) == 0:
					return 'ａ' + r - 'a'
				}
				return r
			}, s)
			if f.chance() { // of the length that is right in bytes
				s = s[:min(len(s), 64)]
			}
			return s
		})
	}},
	{"another encoding", func(f *forgery) {
		mac := f.digest()
		f.sign(f.one(base64.StdEncoding.EncodeToString(mac), base64.RawURLEncoding.EncodeToString(mac),
			base32.StdEncoding.EncodeToString(mac), string(mac), hex.EncodeToString([]byte(hex.EncodeToString(mac))),
			base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString(mac))), url.QueryEscape(string(mac)),
			fmt.Sprintf("%d", mac), fmt.Sprintf("% x", mac), fmt.Sprintf("%#x", mac), fmt.Sprintf("%o", mac),
			"%"+fmt.Sprintf("%x", mac[:1])+hex.EncodeToString(mac[1:])))
	}},
	{"another algorithm", func(f *forgery) {
		decoded, _ := hex.DecodeString(fixtureSecret)
		with := func(key, text []byte) []byte {
			h := hmac.New(sha256.New, key)
			h.Write(text)
			return h.Sum(nil)
		}
		plain, wide, first := sha256.Sum256(f.body), sha512.Sum512(f.body), sha1.Sum(f.body)
		before, behind := sha256.Sum256(append([]byte(fixtureSecret), f.body...)), sha256.Sum256(append(slices.Clone(f.body), fixtureSecret...))
		long := hmac.New(sha512.New, []byte(fixtureSecret))
		long.Write(f.body)
		short := hmac.New(sha1.New, []byte(fixtureSecret))
		short.Write(f.body)
		macs := [][]byte{plain[:], wide[:], wide[:32], first[:], before[:], behind[:], long.Sum(nil), long.Sum(nil)[:32],
			short.Sum(nil), with(f.body, []byte(fixtureSecret)), with(decoded, f.body), with(nil, f.body),
			with([]byte(fixtureSecret), nil), with([]byte(fixtureSecret), plain[:])}
		f.signMAC(macs[f.below(len(macs))])
	}},
	{"digits by chance", func(f *forgery) {
		b := make([]byte, 32)
		for i := range b {
			b[i] = byte(f.rand.Uint32())
		}
		f.signMAC(b)
	}},
	{"one digit throughout", func(f *forgery) { f.sign(strings.Repeat(f.one("0", "f", "F", "9", "x", " ", "%"), 64)) }},
	{"no signature", func(f *forgery) { f.headers = map[string][]string{} }},
	{"an empty signature", func(f *forgery) { f.sign("") }},
	{"several signatures", func(f *forgery) {
		right, wrong := f.signature(), directSignature(f.body, otherSecret)
		lists := [][]string{{right, right}, {right, wrong}, {wrong, right}, {right, ""}, {"", right}, {right, right, right},
			{wrong, wrong, right}, {right, strings.ToUpper(right)}, {right + "," + wrong}, {wrong + ", " + right}, {}}
		f.sign(lists[f.below(len(lists))]...)
	}},
	{"another header", func(f *forgery) {
		name := f.one("X-Mailtrap-Signature", "Signature", "Mailtrap_signature", "Mailtrap-Signature ", " Mailtrap-Signature",
			"Mailtrap-Signature-256", "Authorization", "Mailtrap-Signature:", "Mailtrap‐Signature", "X-Hub-Signature-256")
		f.headers = map[string][]string{name: {f.signature()}}
		if f.chance() {
			f.headers[mw.SignatureHeader] = []string{directSignature(f.body, otherSecret)}
		}
	}},
}

// isSigned says, without the package, whether what was made is a signed request after all: exactly one header with the
// 64 digits of the body's own MAC, in either case.
func (f *forgery) isSigned() bool {
	values := f.headers[mw.SignatureHeader]
	return len(values) == 1 && isSignature(values[0], f.body)
}

func isSignature(value string, body []byte) bool {
	want := directSignature(body, fixtureSecret)
	if len(value) != len(want) || len(body) == 0 {
		return false
	}
	for i := range len(want) {
		upper := want[i]
		if upper >= 'a' {
			upper -= 'a' - 'A'
		}
		if value[i] != want[i] && value[i] != upper {
			return false
		}
	}
	return true
}

func (f *forgery) request() *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/hook", bytes.NewReader(f.body))
	for name, values := range f.headers {
		r.Header[name] = values
	}
	return r
}

// A countingStore knows no event and counts how often it is asked.
type countingStore struct{ calls atomic.Int64 }

func (s *countingStore) Reserve(_ context.Context, keys []string, _ time.Duration) ([]mw.Reservation, error) {
	s.calls.Add(1)
	return slices.Repeat([]mw.Reservation{mw.Reserved}, len(keys)), nil
}

func (s *countingStore) Commit(context.Context, []string) error {
	s.calls.Add(1)
	return nil
}

func (s *countingStore) Release(context.Context, []string) error {
	s.calls.Add(1)
	return nil
}

// A forgeryRig is given forgeries, and watches what a handler does with them.
type forgeryRig struct {
	verifier *mw.Verifier
	handler  *mw.Handler
	store    countingStore
	called   atomic.Int64 // callbacks
}

func newForgeryRig(t testing.TB) *forgeryRig {
	rig := &forgeryRig{verifier: verifierWith(t, otherSecret[1:], fixtureSecret)}
	call := func() error {
		rig.called.Add(1)
		return nil
	}
	rig.handler = &mw.Handler{
		Verifier:    rig.verifier,
		Dedup:       &rig.store,
		OnDelivery:  func(context.Context, *mw.Delivery) error { return call() },
		OnMalformed: func(context.Context, *mw.Delivery, error) error { return call() },
		Logger:      slog.New(slog.DiscardHandler),
	}
	return rig
}

// judge gives one forgery to everything that verifies, and says what is wrong with the outcome. Nothing else may use the
// rig at the same time.
func (rig *forgeryRig) judge(f *forgery) error {
	signed := f.isSigned()
	called, calls := rig.called.Load(), rig.store.calls.Load()
	w := httptest.NewRecorder()
	rig.handler.ServeHTTP(w, f.request())
	switch {
	case signed && w.Code != http.StatusOK:
		return fmt.Errorf("signed, and answered %d", w.Code)
	case signed:
	case w.Code != http.StatusBadRequest:
		return fmt.Errorf("forged, and answered %d", w.Code)
	case rig.called.Load() != called:
		return errors.New("forged, and a callback ran")
	case rig.store.calls.Load() != calls:
		return errors.New("forged, and the store was asked")
	}
	body, err := rig.verifier.VerifyRequest(f.request())
	if err := judgeError("VerifyRequest", signed, err); err != nil {
		return err
	}
	if signed && !bytes.Equal(body, f.body) || !signed && body != nil {
		return fmt.Errorf("VerifyRequest returned a body of %d bytes", len(body))
	}
	for _, value := range f.headers[mw.SignatureHeader] {
		signed := isSignature(value, f.body)
		if err := judgeError("Verify", signed, mw.Verify(f.body, value, otherSecret[1:], fixtureSecret)); err != nil {
			return err
		}
		if err := judgeError("Verifier.Verify", signed, rig.verifier.Verify(f.body, value)); err != nil {
			return err
		}
	}
	return nil
}

func judgeError(what string, signed bool, err error) error {
	switch {
	case signed == (err == nil):
	case signed:
		return fmt.Errorf("%s refused what is signed: %w", what, err)
	default:
		return fmt.Errorf("%s accepted a forgery", what)
	}
	if err != nil && !errors.Is(err, mw.ErrInvalidSignature) && !errors.Is(err, mw.ErrMissingSignature) && !errors.Is(err, mw.ErrEmptyBody) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Requests made from signed ones in any way are refused, unless they are the signed ones again. A refused one has no
// effect.
func TestForgeriesAreRefused(t *testing.T) {
	t.Parallel()
	total, workers := uint64(2_000), uint64(runtime.GOMAXPROCS(0))
	if fullSize() {
		total = 1_000_000
	}
	var signed atomic.Int64
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			rig := newForgeryRig(t)
			for i := worker; i < total && !t.Failed(); i += workers {
				f := forge(i)
				if f.isSigned() {
					signed.Add(1)
				}
				if err := rig.judge(f); err != nil {
					t.Errorf("forgery %d (%s): %v\nbody %q\nheaders %q", i, strings.Join(f.made, ", then "), err, f.body, f.headers)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d of %d requests were signed after all", signed.Load(), total)
	require.Positive(t, signed.Load(), "none with upper-case digits: it was not seen that those are accepted")
	require.Less(t, signed.Load(), int64(total/5), "most are no forgeries")
}

// Verifiers with the usual faults accept some of the forgeries, so that the ones above can be found out.
func TestForgeriesFindWrongVerifiers(t *testing.T) {
	t.Parallel()
	right := func(value string, body []byte) bool { return isSignature(value, body) }
	wrong := map[string]func(values []string, body []byte) bool{
		"compares the first 31 bytes": func(values []string, body []byte) bool {
			return len(values) == 1 && len(values[0]) == 64 && len(body) > 0 &&
				strings.EqualFold(values[0][:62], directSignature(body, fixtureSecret)[:62])
		},
		"compares as far as the signature goes": func(values []string, body []byte) bool {
			return len(values) == 1 && values[0] != "" && strings.HasPrefix(directSignature(body, fixtureSecret), values[0])
		},
		"compares as far as the MAC goes": func(values []string, body []byte) bool {
			return len(values) == 1 && strings.HasPrefix(values[0], directSignature(body, fixtureSecret))
		},
		"trims white space": func(values []string, body []byte) bool {
			return len(values) == 1 && right(strings.TrimSpace(values[0]), body)
		},
		"removes a prefix": func(values []string, body []byte) bool {
			return len(values) == 1 && right(strings.TrimPrefix(values[0], "sha256="), body)
		},
		"takes any of several headers": func(values []string, body []byte) bool {
			return slices.ContainsFunc(values, func(value string) bool { return right(value, body) })
		},
		"takes the first of several headers": func(values []string, body []byte) bool {
			return len(values) > 0 && right(values[0], body)
		},
		"takes any in a list": func(values []string, body []byte) bool {
			return len(values) == 1 && slices.ContainsFunc(strings.Split(values[0], ","), func(value string) bool { return right(value, body) })
		},
		"takes base64": func(values []string, body []byte) bool {
			mac, err := base64.StdEncoding.DecodeString(strings.Join(values, ""))
			return err == nil && right(hex.EncodeToString(mac), body)
		},
		"takes no signature for one": func(values []string, body []byte) bool {
			return len(values) == 0 || values[0] == ""
		},
		"decodes the secret": func(values []string, body []byte) bool {
			key, _ := hex.DecodeString(fixtureSecret)
			return len(values) == 1 && values[0] == directSignature(body, string(key))
		},
		"trims the body": func(values []string, body []byte) bool {
			return len(values) == 1 && right(values[0], bytes.TrimSpace(body))
		},
		"reads other digits": func(values []string, body []byte) bool {
			return len(values) == 1 && right(strings.Map(func(r rune) rune {
				if r >= '０' && r <= '９' {
					return r - '０' + '0'
				}
				return r
			}, values[0]), body)
		},
	}
	const total = 5_000
	accepted := make(map[string]int)
	for i := range uint64(total) {
		f := forge(i)
		for name, accepts := range wrong {
			if !f.isSigned() && accepts(f.headers[mw.SignatureHeader], f.body) {
				accepted[name]++
			}
		}
	}
	for name := range wrong {
		t.Logf("%d of %d are accepted by a verifier that %s", accepted[name], total, name)
		require.Positive(t, accepted[name], "by a verifier that %s", name)
	}
}
