package mailtrapwebhook_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/stretchr/testify/require"
)

// The known answer that Mailtrap's own SDKs share.
const (
	fixtureBody = `{"event":"delivery","sending_stream":"transactional","category":"welcome",` +
		`"message_id":"a8b1d8f6-1f8d-4a3c-9b2e-1a2b3c4d5e6f","email":"recipient@example.com",` +
		`"event_id":"f1e2d3c4-b5a6-7890-1234-567890abcdef","timestamp":1716070000}`
	fixtureSecret    = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"
	fixtureSignature = "6d262e2611cd09be1f948382b5c611d63b0e585c4c9c5e40139d6ac3876d5433"
	otherSecret      = "00112233445566778899aabbccddeeff"

	bodyLimit = 8 << 20
)

// directSignature is the signature computed without the package.
func directSignature(body []byte, secret string) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

// requireNoLeak fails if an error's text shows what it must not.
func requireNoLeak(t *testing.T, err error, private ...string) {
	t.Helper()
	for _, p := range private {
		if len(strings.TrimSpace(p)) > 0 {
			require.NotContains(t, err.Error(), p)
		}
	}
}

func TestSignMatchesMailtrapsKnownAnswer(t *testing.T) {
	require.Equal(t, fixtureSignature, mailtrapwebhook.Sign([]byte(fixtureBody), fixtureSecret))
}

// blankSecrets are secrets that are no secret: anyone can sign with them.
var blankSecrets = []string{"", " ", "\n", "\r\n", " \t\n\v\f\r ", "\u00a0", "\u2003\u0085"}

func TestSignIgnoresWhiteSpaceAroundTheSecret(t *testing.T) {
	for _, blank := range blankSecrets {
		require.Equal(t, fixtureSignature, mailtrapwebhook.Sign([]byte(fixtureBody), blank+fixtureSecret+blank), "%q", blank)
		require.Equal(t, "", mailtrapwebhook.Sign([]byte(fixtureBody), blank), "nobody accepts an empty signature")
	}
	within := fixtureSecret[:16] + " " + fixtureSecret[16:]
	require.Equal(t, directSignature([]byte(fixtureBody), within), mailtrapwebhook.Sign([]byte(fixtureBody), within))
}

func TestWhiteSpaceAroundSecretsIsIgnored(t *testing.T) {
	body := []byte(fixtureBody)
	for _, blank := range blankSecrets {
		for _, secret := range []string{fixtureSecret + blank, blank + fixtureSecret, blank + fixtureSecret + blank} {
			require.NoError(t, mailtrapwebhook.Verify(body, fixtureSignature, secret), "%q", blank)
			require.NoError(t, mailtrapwebhook.Verify(body, fixtureSignature, otherSecret, secret), "%q", blank)
			require.NoError(t, verifierWith(t, secret).Verify(body, fixtureSignature), "%q", blank)
			v := verifierWith(t, otherSecret)
			require.NoError(t, v.SetSecrets(secret))
			require.NoError(t, v.Verify(body, fixtureSignature), "%q", blank)
		}
	}
	// Not what an implementation without trimming would accept.
	signature := directSignature(body, fixtureSecret+"\n")
	require.ErrorIs(t, mailtrapwebhook.Verify(body, signature, fixtureSecret+"\n"), mailtrapwebhook.ErrInvalidSignature)
}

func TestBlankSecretsAreNoSecret(t *testing.T) {
	body := []byte(fixtureBody)
	for _, blank := range blankSecrets {
		for _, secrets := range [][]string{{blank}, {fixtureSecret, blank}, {blank, fixtureSecret}, {fixtureSecret, blank, otherSecret}} {
			v, err := mailtrapwebhook.NewVerifier(secrets...)
			require.Nil(t, v, "%q", secrets)
			require.ErrorIs(t, err, mailtrapwebhook.ErrNoSecret, "%q", secrets)
			requireOnePrefix(t, err)
			requireNoLeak(t, err, secrets...)
			for _, key := range []string{blank, "", fixtureSecret} {
				err = mailtrapwebhook.Verify(body, directSignature(body, key), secrets...)
				require.ErrorIs(t, err, mailtrapwebhook.ErrNoSecret, "%q", secrets)
			}
		}
	}
	err := mailtrapwebhook.Verify(body, fixtureSignature, fixtureSecret, otherSecret, "\n")
	require.ErrorContains(t, err, "signing secret 3 of 3 is blank", "it says which")
}

func TestVerifySharedFixture(t *testing.T) {
	tests := []struct {
		name, body, signature, secret string
		want                          error
	}{
		{"valid", fixtureBody, fixtureSignature, fixtureSecret, nil},
		{"wrong secret", fixtureBody, fixtureSignature, otherSecret, mailtrapwebhook.ErrInvalidSignature},
		{"altered payload", strings.Replace(fixtureBody, "delivery", "Delivery", 1), fixtureSignature, fixtureSecret,
			mailtrapwebhook.ErrInvalidSignature},
		{"signature too short", fixtureBody, fixtureSignature[:62], fixtureSecret, mailtrapwebhook.ErrInvalidSignature},
		{"signature too long", fixtureBody, fixtureSignature + "00", fixtureSecret, mailtrapwebhook.ErrInvalidSignature},
		{"signature of odd length", fixtureBody, fixtureSignature[:63], fixtureSecret, mailtrapwebhook.ErrInvalidSignature},
		{"signature not hexadecimal", fixtureBody, "zz" + fixtureSignature[2:], fixtureSecret,
			mailtrapwebhook.ErrInvalidSignature},
		{"signature with white space", fixtureBody, " " + fixtureSignature, fixtureSecret,
			mailtrapwebhook.ErrInvalidSignature},
		{"signature with prefix", fixtureBody, "sha256=" + fixtureSignature, fixtureSecret,
			mailtrapwebhook.ErrInvalidSignature},
		{"empty signature", fixtureBody, "", fixtureSecret, mailtrapwebhook.ErrMissingSignature},
		{"empty secret", fixtureBody, fixtureSignature, "", mailtrapwebhook.ErrNoSecret},
		{"empty secret signed for", fixtureBody, directSignature([]byte(fixtureBody), ""), "", mailtrapwebhook.ErrNoSecret},
		{"empty payload", "", fixtureSignature, fixtureSecret, mailtrapwebhook.ErrEmptyBody},
		{"empty payload signed for", "", directSignature(nil, fixtureSecret), fixtureSecret, mailtrapwebhook.ErrEmptyBody},
		{"upper-case digits", fixtureBody, strings.ToUpper(fixtureSignature), fixtureSecret, nil},
		{"mixed-case digits", fixtureBody, strings.ToUpper(fixtureSignature[:32]) + fixtureSignature[32:], fixtureSecret, nil},
		{"key is text, not the bytes it spells", fixtureBody,
			directSignature([]byte(fixtureBody), string(unhex(t, fixtureSecret))), fixtureSecret,
			mailtrapwebhook.ErrInvalidSignature},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, newErr := mailtrapwebhook.NewVerifier(tt.secret)
			errs := []error{mailtrapwebhook.Verify([]byte(tt.body), tt.signature, tt.secret)}
			if newErr != nil {
				require.ErrorIs(t, newErr, tt.want)
			} else {
				errs = append(errs, v.Verify([]byte(tt.body), tt.signature))
			}
			for _, err := range errs {
				if tt.want == nil {
					require.NoError(t, err)
					continue
				}
				require.ErrorIs(t, err, tt.want)
				requireNoLeak(t, err, tt.secret, tt.body, tt.signature, directSignature([]byte(tt.body), tt.secret))
			}
		})
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

// The HMAC-SHA-256 test cases of RFC 4231, section 4. Case 5 truncates the digest, and the key of case 1 is 20 vertical
// tabs, which are white space: neither has a counterpart here.
func TestSignRFC4231(t *testing.T) {
	ascending := make([]byte, 25)
	for i := range ascending {
		ascending[i] = byte(i + 1)
	}
	tests := []struct{ name, key, data, want string }{
		{"2 text key", "Jefe", "what do ya want for nothing?",
			"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
		{"3 longer than a block together", strings.Repeat("\xaa", 20), strings.Repeat("\xdd", 50),
			"773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
		{"4 ascending key", string(ascending), strings.Repeat("\xcd", 50),
			"82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"},
		{"6 key over a block", strings.Repeat("\xaa", 131), "Test Using Larger Than Block-Size Key - Hash Key First",
			"60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
		{"7 key and data over a block", strings.Repeat("\xaa", 131), "This is a test using a larger than block-size " +
			"key and a larger than block-size data. The key needs to be hashed before being used by the HMAC algorithm.",
			"9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, mailtrapwebhook.Sign([]byte(tt.data), tt.key))
			require.NoError(t, mailtrapwebhook.Verify([]byte(tt.data), tt.want, tt.key))
		})
	}
}

func TestVerifyRefusesEverySingleBitFlip(t *testing.T) {
	for i := range 8 * len(fixtureBody) {
		altered := []byte(fixtureBody)
		altered[i/8] ^= 1 << (i % 8)
		require.ErrorIs(t, mailtrapwebhook.Verify(altered, fixtureSignature, fixtureSecret),
			mailtrapwebhook.ErrInvalidSignature, "bit %d of the body", i)
	}
	for i := range 8 * len(fixtureSignature) {
		forged := []byte(fixtureSignature)
		forged[i/8] ^= 1 << (i % 8)
		if strings.EqualFold(string(forged), fixtureSignature) {
			continue // only the case of a digit changed
		}
		require.ErrorIs(t, mailtrapwebhook.Verify([]byte(fixtureBody), string(forged), fixtureSecret),
			mailtrapwebhook.ErrInvalidSignature, "bit %d of the signature", i)
	}
}

func TestVerifySeveralSecrets(t *testing.T) {
	const third = "ffeeddccbbaa99887766554433221100"
	tests := []struct {
		name    string
		secrets []string
		want    error
	}{
		{"none", nil, mailtrapwebhook.ErrNoSecret},
		{"match first", []string{fixtureSecret, otherSecret, third}, nil},
		{"match in the middle", []string{otherSecret, fixtureSecret, third}, nil},
		{"match last", []string{otherSecret, third, fixtureSecret}, nil},
		{"match twice", []string{fixtureSecret, fixtureSecret}, nil},
		{"no match", []string{otherSecret, third}, mailtrapwebhook.ErrInvalidSignature},
		{"empty before the match", []string{"", fixtureSecret}, mailtrapwebhook.ErrNoSecret},
		{"empty after the match", []string{fixtureSecret, ""}, mailtrapwebhook.ErrNoSecret},
		{"empty between", []string{fixtureSecret, "", otherSecret}, mailtrapwebhook.ErrNoSecret},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.ErrorIs(t, mailtrapwebhook.Verify([]byte(fixtureBody), fixtureSignature, tt.secrets...), tt.want)
			v, err := mailtrapwebhook.NewVerifier(tt.secrets...)
			if errors.Is(tt.want, mailtrapwebhook.ErrNoSecret) {
				require.ErrorIs(t, err, tt.want)
				require.Nil(t, v)
				requireNoLeak(t, err, fixtureSecret, otherSecret)
				return
			}
			require.NoError(t, err)
			require.ErrorIs(t, v.Verify([]byte(fixtureBody), fixtureSignature), tt.want)
		})
	}
}

func verifierWith(t testing.TB, secrets ...string) *mailtrapwebhook.Verifier {
	t.Helper()
	v, err := mailtrapwebhook.NewVerifier(secrets...)
	require.NoError(t, err)
	return v
}

func TestVerifierWithoutSecretRefusesEverything(t *testing.T) {
	for name, v := range map[string]*mailtrapwebhook.Verifier{"nil": nil, "zero": {}} {
		t.Run(name, func(t *testing.T) {
			for _, signature := range []string{fixtureSignature, directSignature([]byte(fixtureBody), "")} {
				require.ErrorIs(t, v.Verify([]byte(fixtureBody), signature), mailtrapwebhook.ErrNoSecret)

				events, err := v.Parse([]byte(fixtureBody), signature)
				require.ErrorIs(t, err, mailtrapwebhook.ErrNoSecret)
				require.Nil(t, events)

				body, err := v.VerifyRequest(signedRequest(strings.NewReader(fixtureBody), signature))
				require.ErrorIs(t, err, mailtrapwebhook.ErrNoSecret)
				require.Nil(t, body)
			}
			body, err := v.VerifyRequest(signedRequest(strings.NewReader(fixtureBody)))
			require.Error(t, err)
			require.Nil(t, body)
			require.NotPanics(t, func() { _ = fmt.Sprintf("%v %#v", v, v) })
		})
	}
}

func TestSetSecretsReplacesOrKeeps(t *testing.T) {
	v := verifierWith(t, otherSecret)
	require.ErrorIs(t, v.Verify([]byte(fixtureBody), fixtureSignature), mailtrapwebhook.ErrInvalidSignature)
	require.NoError(t, v.SetSecrets(fixtureSecret))
	require.NoError(t, v.Verify([]byte(fixtureBody), fixtureSignature))

	for _, refused := range [][]string{nil, {""}, {"\n"}, {otherSecret, ""}, {" ", otherSecret}} {
		require.ErrorIs(t, v.SetSecrets(refused...), mailtrapwebhook.ErrNoSecret)
		require.NoError(t, v.Verify([]byte(fixtureBody), fixtureSignature), "the old secret stays")
		require.ErrorIs(t, v.Verify([]byte(fixtureBody), directSignature([]byte(fixtureBody), otherSecret)),
			mailtrapwebhook.ErrInvalidSignature)
	}

	require.NoError(t, v.SetSecrets(otherSecret))
	require.ErrorIs(t, v.Verify([]byte(fixtureBody), fixtureSignature), mailtrapwebhook.ErrInvalidSignature,
		"the replaced secret is gone")
}

func TestVerifierKeepsItsOwnCopyOfTheSecrets(t *testing.T) {
	secrets := []string{fixtureSecret}
	v := verifierWith(t, secrets...)
	secrets[0] = ""
	require.NoError(t, v.Verify([]byte(fixtureBody), fixtureSignature))
}

func TestSetSecretsWhileVerifying(t *testing.T) {
	v := verifierWith(t, fixtureSecret)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				if err := v.Verify([]byte(fixtureBody), fixtureSignature); err != nil {
					t.Errorf("a secret that is always in the list was not accepted: %v", err)
					return
				}
				_ = v.String()
			}
		})
	}
	wg.Go(func() {
		for range 500 {
			_ = v.SetSecrets(otherSecret, fixtureSecret)
			_ = v.SetSecrets()
			_ = v.SetSecrets(fixtureSecret)
		}
	})
	wg.Wait()
}

func TestVerifierParseReturnsEventsOnlyWhenVerified(t *testing.T) {
	v := verifierWith(t, fixtureSecret)
	events, err := v.Parse([]byte(fixtureBody), fixtureSignature)
	require.NoError(t, err)
	require.Len(t, events, 1)
	require.Equal(t, "delivery", events[0].Name())

	events, err = v.Parse([]byte(fixtureBody+"\n"), fixtureSignature)
	require.ErrorIs(t, err, mailtrapwebhook.ErrInvalidSignature)
	require.Nil(t, events)
}

// signedRequest is a request of unknown length with the signature headers given.
func signedRequest(body io.Reader, signatures ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", io.NopCloser(body))
	r.ContentLength = -1
	for _, s := range signatures {
		r.Header.Add(mailtrapwebhook.SignatureHeader, s)
	}
	return r
}

func TestVerifyRequestLeavesBodyReadable(t *testing.T) {
	tests := []struct {
		name, body, signature string
		want                  error
	}{
		{"verified", fixtureBody, fixtureSignature, nil},
		{"not verified", fixtureBody, strings.Repeat("0", 64), mailtrapwebhook.ErrInvalidSignature},
		{"header empty", fixtureBody, "", mailtrapwebhook.ErrMissingSignature},
		{"body empty", "", fixtureSignature, mailtrapwebhook.ErrEmptyBody},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := signedRequest(iotest.OneByteReader(strings.NewReader(tt.body)), tt.signature)
			for range 2 { // what was put back can be verified again
				body, err := verifierWith(t, fixtureSecret).VerifyRequest(r)
				require.ErrorIs(t, err, tt.want)
				if tt.want == nil {
					require.Empty(t, cmp.Diff(tt.body, string(body)))
				} else {
					require.Nil(t, body)
					requireNoLeak(t, err, fixtureSecret, fixtureSignature, tt.body)
				}
			}
			again, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			require.Equal(t, tt.body, string(again))
		})
	}
}

func TestVerifyRequestCanBeCalledAgainAfterTheBodyWasRead(t *testing.T) {
	v := verifierWith(t, fixtureSecret)
	r := signedRequest(strings.NewReader(fixtureBody), fixtureSignature)
	for range 3 {
		body, err := v.VerifyRequest(r)
		require.NoError(t, err)
		require.Equal(t, fixtureBody, string(body))
		read, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		require.Equal(t, fixtureBody, string(read))
		require.NoError(t, r.Body.Close())
	}
}

// What middleware does to the body before VerifyRequest, on servers of both versions of HTTP.
func TestVerifyRequestSaysThatTheBodyWasReadBefore(t *testing.T) {
	read := func(t *testing.T, r *http.Request, n int64) {
		if _, err := io.CopyN(io.Discard, r.Body, n); err != nil && err != io.EOF {
			t.Error(err)
		}
	}
	tests := []struct {
		name   string
		before func(t *testing.T, r *http.Request)
		want   error
	}{
		{"closed", func(_ *testing.T, r *http.Request) { r.Body.Close() }, http.ErrBodyReadAfterClose},
		{"read in part and closed", func(t *testing.T, r *http.Request) { read(t, r, 100); r.Body.Close() }, http.ErrBodyReadAfterClose},
		{"read", func(t *testing.T, r *http.Request) { read(t, r, 1<<20) }, mailtrapwebhook.ErrEmptyBody},
		{"read in part", func(t *testing.T, r *http.Request) { read(t, r, 100) }, mailtrapwebhook.ErrInvalidSignature},
		{"read and replaced by nothing", func(t *testing.T, r *http.Request) { read(t, r, 1<<20); r.Body = http.NoBody }, mailtrapwebhook.ErrEmptyBody},
		{"set to nil", func(t *testing.T, r *http.Request) { r.Body = nil }, mailtrapwebhook.ErrEmptyBody},
	}
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		for _, test := range tests {
			t.Run(proto+" "+test.name, func(t *testing.T) {
				var got error
				server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					test.before(t, r)
					if r.Proto != proto {
						t.Error(r.Proto)
					}
					_, got = verifierWith(t, fixtureSecret).VerifyRequest(r)
				}))
				server.EnableHTTP2 = proto == "HTTP/2.0"
				server.StartTLS()
				defer server.Close()
				r, err := http.NewRequest(http.MethodPost, server.URL, strings.NewReader(fixtureBody))
				require.NoError(t, err)
				r.Header.Set(mailtrapwebhook.SignatureHeader, fixtureSignature)
				answer, err := server.Client().Do(r)
				require.NoError(t, err)
				require.NoError(t, answer.Body.Close())
				server.Close() // waits for the handler, which writes to got

				require.ErrorIs(t, got, test.want)
				require.ErrorContains(t, got, "other code read or closed the body first: verify before")
				requireOnePrefix(t, got)
			})
		}
	}
}

func TestVerifyRequestBlamesNobodyForAnEmptyBody(t *testing.T) {
	for _, length := range []int64{0, -1} {
		r := signedRequest(strings.NewReader(""), fixtureSignature)
		r.ContentLength = length
		_, err := verifierWith(t, fixtureSecret).VerifyRequest(r)
		require.True(t, err == mailtrapwebhook.ErrEmptyBody, "got %v", err)
	}
}

// A stranger can announce a length and send nothing, on many connections at once.
func TestVerifyRequestTakesMemoryForWhatArrives(t *testing.T) {
	v := verifierWith(t, fixtureSecret)
	tests := []struct {
		name          string
		arrives       int
		announced     int64
		atMost, times float64 // bytes, and bytes for each byte that arrives
	}{
		{"nothing of 8 MiB", 0, bodyLimit, 300 << 10, 0},
		{"nothing of an unknown length", 0, -1, 64 << 10, 0},
		{"a delivery, as announced", 200_000, 200_000, 16 << 10, 1.1}, // which is read without copying
		{"a delivery of unknown length", 200_000, -1, 64 << 10, 4},
		{"1 MiB, as announced", 1 << 20, 1 << 20, 512 << 10, 4},
		{"1 MiB of 8", 1 << 20, bodyLimit, 512 << 10, 4},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			body := bytes.Repeat([]byte("x"), test.arrives)
			signature := directSignature(body, fixtureSecret)
			var before, after runtime.MemStats
			const runs = 20
			runtime.ReadMemStats(&before)
			for range runs {
				r := signedRequest(bytes.NewReader(body), signature)
				r.ContentLength = test.announced
				got, err := v.VerifyRequest(r)
				if err == nil && len(got) != len(body) || err != nil && test.announced == int64(len(body)) {
					t.Error(len(got), err)
				}
			}
			runtime.ReadMemStats(&after)
			require.Less(t, float64(after.TotalAlloc-before.TotalAlloc)/runs, test.atMost+test.times*float64(test.arrives))
		})
	}
}

type closeCounter struct {
	io.Reader
	closed int
}

func (c *closeCounter) Close() error { c.closed++; return nil }

func TestVerifyRequestBodyClosesTheOriginal(t *testing.T) {
	original := &closeCounter{Reader: strings.NewReader(fixtureBody)}
	r := signedRequest(nil, fixtureSignature)
	r.Body = original
	_, err := verifierWith(t, fixtureSecret).VerifyRequest(r)
	require.NoError(t, err)
	require.Zero(t, original.closed, "reading must not close what the server still owns")
	require.NoError(t, r.Body.Close())
	require.Equal(t, 1, original.closed)
}

func TestVerifyRequestWantsExactlyOneSignature(t *testing.T) {
	tests := []struct {
		name       string
		signatures []string
		want       error
	}{
		{"none", nil, mailtrapwebhook.ErrMissingSignature},
		{"two right ones", []string{fixtureSignature, fixtureSignature}, mailtrapwebhook.ErrInvalidSignature},
		{"right and wrong", []string{fixtureSignature, strings.Repeat("0", 64)}, mailtrapwebhook.ErrInvalidSignature},
		{"right and empty", []string{fixtureSignature, ""}, mailtrapwebhook.ErrInvalidSignature},
		{"empty and right", []string{"", fixtureSignature}, mailtrapwebhook.ErrInvalidSignature},
		{"joined by a proxy", []string{fixtureSignature + ", " + fixtureSignature}, mailtrapwebhook.ErrInvalidSignature},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := signedRequest(strings.NewReader(fixtureBody), tt.signatures...)
			body, err := verifierWith(t, fixtureSecret).VerifyRequest(r)
			require.ErrorIs(t, err, tt.want)
			require.Nil(t, body)
			requireNoLeak(t, err, fixtureSecret, fixtureSignature, fixtureBody)
			again, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			require.Equal(t, fixtureBody, string(again), "the body is still there")
		})
	}
}

// countingReader gives four times what a body may have, and counts it. It ends so that a lost bound is a failed test
// rather than a machine without memory.
type countingReader struct{ read int64 }

func (c *countingReader) Read(p []byte) (int, error) {
	if c.read >= 4*bodyLimit {
		return 0, io.EOF
	}
	for i := range p {
		p[i] = 'x'
	}
	c.read += int64(len(p))
	return len(p), nil
}

func TestVerifyRequestBoundsTheBody(t *testing.T) {
	v := verifierWith(t, fixtureSecret)
	requireTooLarge := func(t *testing.T, body []byte, err error) {
		t.Helper()
		var tooLarge *http.MaxBytesError
		require.ErrorAs(t, err, &tooLarge)
		require.Equal(t, int64(bodyLimit), tooLarge.Limit)
		require.Nil(t, body)
	}
	t.Run("announced length", func(t *testing.T) {
		long := new(countingReader)
		r := signedRequest(long, fixtureSignature)
		r.ContentLength = bodyLimit + 1
		body, err := v.VerifyRequest(r)
		requireTooLarge(t, body, err)
		require.Zero(t, long.read, "a body known to be too large is not read")
	})
	t.Run("chunked", func(t *testing.T) {
		long := new(countingReader)
		body, err := v.VerifyRequest(signedRequest(long, fixtureSignature))
		requireTooLarge(t, body, err)
		require.LessOrEqual(t, long.read, int64(bodyLimit+1))
	})
	t.Run("one byte over", func(t *testing.T) {
		large := bytes.Repeat([]byte("x"), bodyLimit+1)
		r := signedRequest(bytes.NewReader(large), directSignature(large, fixtureSecret))
		body, err := v.VerifyRequest(r)
		requireTooLarge(t, body, err)
	})
	t.Run("exactly the limit", func(t *testing.T) {
		large := bytes.Repeat([]byte("x"), bodyLimit)
		r := signedRequest(bytes.NewReader(large), directSignature(large, fixtureSecret))
		r.ContentLength = bodyLimit
		body, err := v.VerifyRequest(r)
		require.NoError(t, err)
		require.True(t, bytes.Equal(large, body))
	})
}

func TestVerifyRequestNilBody(t *testing.T) {
	for name, none := range map[string]io.ReadCloser{"nil": nil, "http.NoBody": http.NoBody} {
		t.Run(name, func(t *testing.T) {
			r := signedRequest(nil, directSignature(nil, fixtureSecret))
			r.Body = none
			body, err := verifierWith(t, fixtureSecret).VerifyRequest(r)
			require.ErrorIs(t, err, mailtrapwebhook.ErrEmptyBody)
			require.Nil(t, body)
		})
	}
}

func TestVerifyRequestReturnsReaderErrorsAsTheyAre(t *testing.T) {
	broken := errors.New("connection reset")
	// The bytes before the error are a body that would verify.
	r := signedRequest(io.MultiReader(strings.NewReader(fixtureBody), iotest.ErrReader(broken)), fixtureSignature)
	body, err := verifierWith(t, fixtureSecret).VerifyRequest(r)
	require.True(t, err == broken, "got %v", err)
	require.Nil(t, body)
}

func TestMiddleware(t *testing.T) {
	large := strings.Repeat("x", bodyLimit+1)
	signed := verifierWith(t, fixtureSecret)
	tests := []struct {
		name       string
		verifier   *mailtrapwebhook.Verifier
		body       string
		chunked    bool
		signatures []string
		want       int
	}{
		{"right", signed, fixtureBody, false, []string{fixtureSignature}, http.StatusOK},
		{"right, chunked", signed, fixtureBody, true, []string{fixtureSignature}, http.StatusOK},
		{"wrong signature", signed, fixtureBody, false, []string{strings.Repeat("0", 64)}, http.StatusBadRequest},
		{"altered body", signed, fixtureBody + "\n", false, []string{fixtureSignature}, http.StatusBadRequest},
		{"no signature", signed, fixtureBody, false, nil, http.StatusBadRequest},
		{"two signatures", signed, fixtureBody, false, []string{fixtureSignature, fixtureSignature}, http.StatusBadRequest},
		{"no body", signed, "", false, []string{directSignature(nil, fixtureSecret)}, http.StatusBadRequest},
		{"too large", signed, large, false, []string{directSignature([]byte(large), fixtureSecret)},
			http.StatusRequestEntityTooLarge},
		{"too large, chunked", signed, large, true, []string{directSignature([]byte(large), fixtureSecret)},
			http.StatusRequestEntityTooLarge},
		{"nil verifier", nil, fixtureBody, false, []string{fixtureSignature}, http.StatusInternalServerError},
		{"zero verifier", new(mailtrapwebhook.Verifier), fixtureBody, false,
			[]string{directSignature([]byte(fixtureBody), "")}, http.StatusInternalServerError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var seen []string
			server := httptest.NewServer(tt.verifier.Middleware(http.HandlerFunc(
				func(_ http.ResponseWriter, r *http.Request) {
					body, err := io.ReadAll(r.Body)
					if err != nil {
						t.Errorf("reading the body behind the middleware: %v", err)
					}
					seen = append(seen, string(body))
				})))
			defer server.Close()

			var payload io.Reader = strings.NewReader(tt.body)
			if tt.chunked {
				payload = io.NopCloser(payload) // hides the length
			}
			r, err := http.NewRequest(http.MethodPost, server.URL, payload)
			require.NoError(t, err)
			// The client waits to be asked for the body, or it might fail to send what the server does not read.
			r.Header.Set("Expect", "100-continue")
			server.Client().Transport.(*http.Transport).ExpectContinueTimeout = time.Minute
			for _, s := range tt.signatures {
				r.Header.Add(mailtrapwebhook.SignatureHeader, s)
			}
			answer, err := server.Client().Do(r)
			require.NoError(t, err)
			text, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			require.NoError(t, answer.Body.Close())
			server.Close() // waits for the handler, which writes to seen

			require.Equal(t, tt.want, answer.StatusCode)
			if tt.want == http.StatusOK {
				require.Empty(t, cmp.Diff([]string{tt.body}, seen))
				return
			}
			require.Empty(t, seen, "an unverified request must not get through")
			require.Equal(t, http.StatusText(tt.want)+"\n", string(text), "the answer tells a stranger nothing")
		})
	}
}

func TestMiddlewareWithoutNextPanicsAtOnce(t *testing.T) {
	require.Panics(t, func() { verifierWith(t, fixtureSecret).Middleware(nil) })
}

func TestVerifierNeverShowsItsSecrets(t *testing.T) {
	v := verifierWith(t, fixtureSecret, otherSecret)
	var byValue struct {
		Public mailtrapwebhook.Verifier
		hidden mailtrapwebhook.Verifier
	}
	require.NoError(t, byValue.Public.SetSecrets(fixtureSecret, otherSecret))
	require.NoError(t, byValue.hidden.SetSecrets(fixtureSecret, otherSecret))
	shapes := map[string]any{
		"pointer":            v,
		"value":              reflect.ValueOf(v).Elem().Interface(), // what vet rightly forbids people do all the same
		"value in a struct":  reflect.ValueOf(&byValue).Elem().Interface(),
		"pointer to struct":  &byValue,
		"field":              struct{ V *mailtrapwebhook.Verifier }{v},
		"unexported field":   struct{ v *mailtrapwebhook.Verifier }{v},
		"slice":              []*mailtrapwebhook.Verifier{v},
		"map":                map[string]*mailtrapwebhook.Verifier{"v": v},
		"pointer to pointer": &v,
	}
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%X", "%q"} {
				fmt.Fprintf(&out, verb+"\n", shape)
			}
			fmt.Fprintln(&out, shape)
			encoded, err := json.Marshal(shape)
			require.NoError(t, err)
			out.Write(encoded)
			for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
				slog.New(h).Info("printed", "v", shape, slog.Group("g", "v", shape))
			}
			for _, secret := range []string{fixtureSecret, otherSecret} {
				require.NotContains(t, out.String(), secret)
				require.NotContains(t, strings.ToLower(out.String()), hex.EncodeToString([]byte(secret)))
				require.NotContains(t, out.String(), strings.Trim(fmt.Sprint([]byte(secret)), "[]"))
			}
		})
	}
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte(fixtureBody), fixtureSignature, fixtureSecret, uint(0))
	f.Add([]byte(fixtureBody), strings.ToUpper(fixtureSignature), fixtureSecret, uint(5))
	f.Add([]byte(fixtureBody), fixtureSignature, otherSecret, uint(511))
	f.Add([]byte(fixtureBody), "sha256="+fixtureSignature, fixtureSecret, uint(7))
	f.Add([]byte(""), directSignature(nil, fixtureSecret), fixtureSecret, uint(1))
	f.Add([]byte("x"), directSignature([]byte("x"), ""), "", uint(2))
	f.Add([]byte(fixtureBody), fixtureSignature, " "+fixtureSecret+"\n", uint(3))
	f.Add([]byte("x"), directSignature([]byte("x"), "\n"), "\n", uint(2))
	f.Add([]byte("x"), directSignature([]byte("x"), ""), "\x00", uint(2))
	f.Fuzz(func(t *testing.T, body []byte, signature, secret string, bit uint) {
		err := mailtrapwebhook.Verify(body, signature, secret)
		require.Equal(t, directlyAccepted(body, signature, secret), err == nil)
		if noSecret(secret) {
			require.ErrorIs(t, err, mailtrapwebhook.ErrNoSecret)
			require.Equal(t, "", mailtrapwebhook.Sign(body, secret))
			return
		}
		right := directSignature(body, strings.TrimSpace(secret))
		require.Equal(t, right, mailtrapwebhook.Sign(body, secret))
		if len(body) == 0 {
			return
		}
		require.NoError(t, mailtrapwebhook.Verify(body, right, secret))

		altered := bytes.Clone(body)
		altered[bit/8%uint(len(body))] ^= 1 << (bit % 8)
		require.ErrorIs(t, mailtrapwebhook.Verify(altered, right, secret), mailtrapwebhook.ErrInvalidSignature)

		forged := []byte(right)
		forged[bit/8%uint(len(forged))] ^= 1 << (bit % 8)
		if strings.EqualFold(string(forged), right) {
			return // only the case of a digit changed
		}
		require.ErrorIs(t, mailtrapwebhook.Verify(body, string(forged), secret), mailtrapwebhook.ErrInvalidSignature)
	})
}

// noSecret reports whether a secret is white space, what nobody sees, and quotes.
func noSecret(secret string) bool { return blankSecret.MatchString(secret) }

var blankSecret = regexp.MustCompile(`^[\pZ\p{Cf}\t\n\v\f\r\x{85}\x00"']*$`)

// directlyAccepted is what Verify must answer, by crypto/hmac alone.
func directlyAccepted(body []byte, signature, secret string) bool {
	given, err := hex.DecodeString(signature)
	if err != nil || len(given) != sha256.Size || len(body) == 0 || noSecret(secret) {
		return false
	}
	secret = strings.TrimSpace(secret)
	h := hmac.New(sha256.New, []byte(secret))
	h.Write(body)
	return hmac.Equal(h.Sum(nil), given)
}

// NUL bytes make the HMAC key of no secret at all, and a buffer that was never
// filled holds nothing else.
func TestInvisibleSecretsAreNone(t *testing.T) {
	for _, secret := range []string{
		"\x00", strings.Repeat("\x00", 32), "\ufeff", "\u200b", " \x00\n", "\u2060", "\u00ad", "\u200c", "\u180e",
		`""`, "''", ` "" `,
	} {
		_, err := mailtrapwebhook.NewVerifier(fixtureSecret, secret)
		require.ErrorIs(t, err, mailtrapwebhook.ErrNoSecret, "%q", secret)
		require.ErrorIs(t, mailtrapwebhook.Verify([]byte(fixtureBody), fixtureSignature, secret), mailtrapwebhook.ErrNoSecret)
		require.Empty(t, mailtrapwebhook.Sign([]byte(fixtureBody), secret))
	}
}

// A body that gives nothing and never ends must not keep VerifyRequest for good.
func TestVerifyRequestEndsOnABodyThatGivesNothing(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/", emptyReader{})
	r.Header.Set(mailtrapwebhook.SignatureHeader, fixtureSignature)
	v, err := mailtrapwebhook.NewVerifier(fixtureSecret)
	require.NoError(t, err)
	_, err = v.VerifyRequest(r)
	require.ErrorIs(t, err, io.ErrNoProgress)
}

type emptyReader struct{}

func (emptyReader) Read([]byte) (int, error) { return 0, nil }
