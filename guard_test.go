package mailtrapwebhook_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

func TestHandlerGuardsRunInOrder(t *testing.T) {
	var ran []int
	guard := func(i int, err error) mw.Guard {
		return func(*http.Request) error { ran = append(ran, i); return err }
	}
	rig := newRig(t, &mw.Handler{Guards: []mw.Guard{guard(1, nil), guard(2, mw.ErrUnauthorized), guard(3, errBoom)}})
	require.Equal(t, 401, rig.direct(bodyOf("a")).Status)
	require.Equal(t, []int{1, 2}, ran)
}

func TestBasicAuth(t *testing.T) {
	const name, password = "mail", "p:ss wörd"
	tests := []struct {
		name           string
		user, password string
		edit           requestEdit
		want           int
	}{
		{"right", name, password, func(r *http.Request) { r.SetBasicAuth(name, password) }, 200},
		{"none", name, password, func(*http.Request) {}, 401},
		{"wrong name", name, password, func(r *http.Request) { r.SetBasicAuth("Mail", password) }, 401},
		{"wrong password", name, password, func(r *http.Request) { r.SetBasicAuth(name, "p") }, 401},
		{"both wrong", name, password, func(r *http.Request) { r.SetBasicAuth("x", "y") }, 401},
		{"swapped", name, password, func(r *http.Request) { r.SetBasicAuth(password, name) }, 401},
		{"a longer password", name, password, func(r *http.Request) { r.SetBasicAuth(name, password+"x") }, 401},
		{"no password", name, password, func(r *http.Request) { r.SetBasicAuth(name, "") }, 401},
		{"another scheme", name, password, withHeader("Authorization", "Bearer "+password), 401},
		{"not base64", name, password, withHeader("Authorization", "Basic !"), 401},
		{"no name set", "", password, func(r *http.Request) { r.SetBasicAuth("", password) }, 401},
		{"no password set", name, "", func(r *http.Request) { r.SetBasicAuth(name, "") }, 401},
		{"nothing set", "", "", func(r *http.Request) { r.SetBasicAuth("", "") }, 401},
		{"nothing set, none given", "", "", func(*http.Request) {}, 401},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rig := newRig(t, &mw.Handler{Guards: []mw.Guard{mw.BasicAuth(test.user, test.password)}}).serve()
			got := rig.post(bodyOf("a"), test.edit)
			if test.user == "" || test.password == "" {
				require.Contains(t, []int{401, 403}, got.Status)
				require.Regexp(t, `BasicAuth.*empty`, rig.said.String(), "it logs why")
				return
			}
			require.Equal(t, test.want, got.Status)
			if test.want == 401 {
				require.ErrorIs(t, rig.last().Err, mw.ErrUnauthorized)
			}
		})
	}
}

func TestQueryToken(t *testing.T) {
	const token = "t&=k ön"
	const escaped = "t%26%3Dk+%C3%B6n"
	tests := []struct {
		name        string
		param, want string
		query       string
		status      int
	}{
		{"right", "token", token, "token=" + escaped, 200},
		{"among others", "token", token, "a=1&token=" + escaped + "&b=2", 200},
		{"an escaped name", "token", token, "%74oken=" + escaped, 200},
		{"none", "token", token, "", 403},
		{"empty", "token", token, "token=", 403},
		{"wrong", "token", token, "token=x", 403},
		{"longer", "token", token, "token=" + escaped + "x", 403},
		{"another's name", "token", token, "Token=" + escaped, 403},
		{"twice, both right", "token", token, "token=" + escaped + "&token=" + escaped, 403},
		{"right then wrong", "token", token, "token=" + escaped + "&token=x", 403},
		{"wrong then right", "token", token, "token=x&token=" + escaped, 403},
		{"right then empty", "token", token, "token=" + escaped + "&token", 403},
		{"a malformed query", "token", token, "token=" + escaped + "&x=%zz", 403},
		{"a semicolon", "token", token, "token=" + escaped + "&x=1;y=2", 403},
		{"no token set", "token", "", "token=", 403},
		{"no token set, none given", "token", "", "", 403},
		{"no name set", "", token, "=" + escaped, 403},
		{"nothing set", "", "", "=", 403},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rig := newRig(t, &mw.Handler{Guards: []mw.Guard{mw.QueryToken(test.param, test.want)}}).serve()
			got := rig.post(bodyOf("a"), withQuery(test.query))
			if test.param == "" || test.want == "" {
				require.Contains(t, []int{401, 403}, got.Status)
				require.Regexp(t, `QueryToken.*empty`, rig.said.String(), "it logs why")
				return
			}
			require.Equal(t, test.status, got.Status)
		})
	}
}
