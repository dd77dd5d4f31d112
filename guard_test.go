package mailtrapwebhook_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/stretchr/testify/require"
)

func TestBasicAuth(t *testing.T) {
	const name, password = "mail", "p:ss wörd"
	basic := func(name, password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(name, password) }
	}
	authorization := func(value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", value) }
	}
	tests := []struct {
		name           string
		user, password string
		edit           func(*http.Request)
		ok             bool
	}{
		{"right", name, password, basic(name, password), true},
		{"none", name, password, func(*http.Request) {}, false},
		{"wrong name", name, password, basic("Mail", password), false},
		{"wrong password", name, password, basic(name, "p"), false},
		{"both wrong", name, password, basic("x", "y"), false},
		{"swapped", name, password, basic(password, name), false},
		{"a longer password", name, password, basic(name, password+"x"), false},
		{"no password", name, password, basic(name, ""), false},
		{"another scheme", name, password, authorization("Bearer " + password), false},
		{"not base64", name, password, authorization("Basic !"), false},

		{"read from files that end in newlines", name + "\n", password + "\r\n", basic(name, password), true},
		{"white space in the URL", name, password, basic(name, " "+password), true},
		{"white space within", name, password, basic(name, "p:sswörd"), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", nil)
			test.edit(r)
			requireVerdict(t, test.ok, mailtrapwebhook.ErrUnauthorized, mailtrapwebhook.BasicAuth(test.user, test.password)(r))
		})
	}
}

func TestQueryToken(t *testing.T) {
	const token, escaped = "t&=k ön", "t%26%3Dk+%C3%B6n"
	tests := []struct {
		name, param, token, query string
		ok                        bool
	}{
		{"right", "token", token, "token=" + escaped, true},
		{"among others", "token", token, "a=1&token=" + escaped + "&b=2", true},
		{"an escaped name", "token", token, "%74oken=" + escaped, true},
		{"none", "token", token, "", false},
		{"empty", "token", token, "token=", false},
		{"wrong", "token", token, "token=x", false},
		{"longer", "token", token, "token=" + escaped + "x", false},
		{"another's name", "token", token, "Token=" + escaped, false},
		{"twice, both right", "token", token, "token=" + escaped + "&token=" + escaped, false},
		{"right then wrong", "token", token, "token=" + escaped + "&token=x", false},
		{"wrong then right", "token", token, "token=x&token=" + escaped, false},
		{"right then empty", "token", token, "token=" + escaped + "&token", false},
		{"a malformed query", "token", token, "token=" + escaped + "&x=%zz", false},
		{"a semicolon", "token", token, "token=" + escaped + "&x=1;y=2", false},

		{"read from a file that ends in a newline", "token", token + "\n", "token=" + escaped, true},
		{"white space in the URL", "token", token, "token=+" + escaped, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/?"+test.query, nil)
			requireVerdict(t, test.ok, mailtrapwebhook.ErrForbidden, mailtrapwebhook.QueryToken(test.param, test.token)(r))
		})
	}
}

// requireVerdict fails unless a guard let a request pass or refused it as wanted.
func requireVerdict(t *testing.T, ok bool, refusal, err error) {
	t.Helper()
	if ok {
		require.NoError(t, err)
		return
	}
	require.ErrorIs(t, err, refusal)
	requireOnePrefix(t, err)
	requireNoLeak(t, err, "p:ss", "wörd", "t&=k", "%26", "%zz")
}

// An unset variable must not open the door to requests with empty credentials.
func TestGuardsWithBlankCredentialsRefuseEverything(t *testing.T) {
	for _, blank := range []string{"", " ", "\n"} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		query := r.URL.Query()
		query.Set("token", blank)
		query.Set(blank, "x")
		r.URL.RawQuery = query.Encode()
		for _, user := range []string{blank, "x"} {
			r.SetBasicAuth(user, blank)
			err := mailtrapwebhook.BasicAuth(user, blank)(r)
			requireSetupError(t, mailtrapwebhook.ErrUnauthorized, err, "BasicAuth has an empty")
		}
		r.SetBasicAuth(blank, "x")
		requireSetupError(t, mailtrapwebhook.ErrUnauthorized, mailtrapwebhook.BasicAuth(blank, "x")(r), "BasicAuth has an empty")
		requireSetupError(t, mailtrapwebhook.ErrForbidden, mailtrapwebhook.QueryToken("token", blank)(r), "QueryToken has an empty")
		requireSetupError(t, mailtrapwebhook.ErrForbidden, mailtrapwebhook.QueryToken(blank, "x")(r), "QueryToken has an empty")
	}
}

// requireSetupError fails unless err says what to set up, and blames no request.
func requireSetupError(t *testing.T, sentinel, err error, text string) {
	t.Helper()
	require.ErrorIs(t, err, sentinel)
	require.ErrorContains(t, err, "mailtrapwebhook: "+text)
	require.NotContains(t, err.Error(), "request")
}

func TestHandlerRunsGuardsInOrderUntilOneRefuses(t *testing.T) {
	verifier, err := mailtrapwebhook.NewVerifier(fixtureSecret)
	require.NoError(t, err)
	var ran []int
	guard := func(i int, err error) mailtrapwebhook.Guard {
		return func(*http.Request) error { ran = append(ran, i); return err }
	}
	handler := &mailtrapwebhook.Handler{
		Verifier: verifier,
		Guards: []mailtrapwebhook.Guard{
			guard(1, nil), guard(2, mailtrapwebhook.ErrUnauthorized), guard(3, mailtrapwebhook.ErrForbidden),
		},
		OnEvent: func(context.Context, mailtrapwebhook.Event) error { return nil },
		Logger:  slog.New(slog.DiscardHandler),
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, signedRequest(strings.NewReader(fixtureBody), fixtureSignature))
	require.Equal(t, 401, w.Code)
	require.Equal(t, []int{1, 2}, ran)
}

func TestHandlerAnswersWhatGuardsRefuse(t *testing.T) {
	verifier, err := mailtrapwebhook.NewVerifier(fixtureSecret)
	require.NoError(t, err)
	tests := []struct {
		name   string
		guard  mailtrapwebhook.Guard
		status int
		log    string
	}{
		{"BasicAuth", mailtrapwebhook.BasicAuth("a", "b"), 401, "user name and password"},
		{"BasicAuth without a password", mailtrapwebhook.BasicAuth("a", ""), 401, "BasicAuth has an empty"},
		{"QueryToken", mailtrapwebhook.QueryToken("a", "b"), 403, "0 tokens"},
		{"QueryToken without a token", mailtrapwebhook.QueryToken("a", ""), 403, "QueryToken has an empty"},
		{"IPAllowlist", mailtrapwebhook.NewIPAllowlist(mailtrapwebhook.IPRanges()).Guard(), 403, "not on the IPAllowlist"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var log strings.Builder
			handler := &mailtrapwebhook.Handler{
				Verifier: verifier,
				Guards:   []mailtrapwebhook.Guard{test.guard},
				OnEvent:  func(context.Context, mailtrapwebhook.Event) error { t.Error("an event came through"); return nil },
				Logger:   slog.New(slog.NewTextHandler(&log, nil)),
			}
			r := signedRequest(strings.NewReader(fixtureBody), fixtureSignature)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			require.Equal(t, test.status, w.Code)
			require.Equal(t, http.StatusText(test.status)+"\n", w.Body.String())
			require.Contains(t, log.String(), test.log)
		})
	}
}
