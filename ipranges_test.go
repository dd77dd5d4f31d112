package mailtrapwebhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// equateAddrs makes go-cmp compare the values of net/netip, which have only unexported fields.
var equateAddrs = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func TestIPRangesAreThoseOfMailtrapsPage(t *testing.T) {
	require.Empty(t, cmp.Diff(prefixes("45.158.83.0/24", "5.181.200.0/24"), mailtrapwebhook.IPRanges(), equateAddrs))
	want := []netip.Addr{netip.MustParseAddr("45.158.83.129"), netip.MustParseAddr("45.158.83.130")}
	require.Empty(t, cmp.Diff(want, mailtrapwebhook.WebhookIPs(), equateAddrs))

	list := mailtrapwebhook.NewIPAllowlist(mailtrapwebhook.IPRanges())
	for _, a := range want {
		require.True(t, list.Contains(a), a)
	}
}

func TestIPRangesAreFreshEachCall(t *testing.T) {
	mailtrapwebhook.IPRanges()[0] = netip.MustParsePrefix("0.0.0.0/0")
	mailtrapwebhook.WebhookIPs()[0] = netip.IPv4Unspecified()
	require.Equal(t, "45.158.83.0/24", mailtrapwebhook.IPRanges()[0].String())
	require.Equal(t, "45.158.83.129", mailtrapwebhook.WebhookIPs()[0].String())
}

func TestParseIPRanges(t *testing.T) {
	tests := []struct {
		name, doc string
		want      []netip.Prefix
	}{
		{"an array", `["45.158.83.0/24","5.181.200.0/24"]`, prefixes("5.181.200.0/24", "45.158.83.0/24")},
		{"a string alone", ` "45.158.83.0/24" `, prefixes("45.158.83.0/24")},
		{"the shape of AWS", `{"syncToken":"1","prefixes":[{"ip_prefix":"45.158.83.0/24","service":"webhooks"}],
			"ipv6_prefixes":[{"ipv6_prefix":"2600:1f14::/36"}]}`, prefixes("45.158.83.0/24", "2600:1f14::/36")},
		{"deep down", `{"a":[[{"b":{"c":["45.158.83.0/24"]}}],1,null,true]}`, prefixes("45.158.83.0/24")},
		{"a key is no value", `{"10.0.0.0/8":"45.158.83.0/24","192.0.2.1":[{"8.8.8.8":null}]}`, prefixes("45.158.83.0/24")},
		{"both of two equal keys", `{"a":"45.158.83.0/24","a":"5.181.200.0/24"}`,
			prefixes("5.181.200.0/24", "45.158.83.0/24")},
		{"other strings", `["","webhooks","2026-01-01","https://mailtrap.io","45.158.83.0/33"," 8.8.8.8","8.8.8",
			"8.8.8.8/","8.8.8.8-8.8.8.9","8.8.8.08","100%","a%b","45.158.83.0/24"]`, prefixes("45.158.83.0/24")},
		{"a number that is no float64", `[1e999,"45.158.83.0/24"]`, prefixes("45.158.83.0/24")},
		{"an escaped slash", `["45.158.83.0\/24"]`, prefixes("45.158.83.0/24")},
		{"an address", `["45.158.83.129","2600:1f14::1"]`, prefixes("45.158.83.129/32", "2600:1f14::1/128")},
		{"masked", `["45.158.83.77/24","2600:1f14::7/36"]`, prefixes("45.158.83.0/24", "2600:1f14::/36")},
		{"each once", `["45.158.83.0/24","45.158.83.1/24","45.158.83.0/24"]`, prefixes("45.158.83.0/24")},
		{"sorted by address and width", `["2600::/32","45.158.83.0/25","45.158.83.0/24","5.181.200.0/24","45.158.82.0/24"]`,
			prefixes("5.181.200.0/24", "45.158.82.0/24", "45.158.83.0/24", "45.158.83.0/25", "2600::/32")},
		{"the widest", `["45.158.0.0/16","2600:1f14::/32"]`, prefixes("45.158.0.0/16", "2600:1f14::/32")},
		{"IPv4 as IPv6", `["::ffff:45.158.83.0/120","::ffff:5.181.200.1"]`, prefixes("5.181.200.1/32", "45.158.83.0/24")},
		{"IPv4 as IPv6, masked", `["::ffff:45.158.83.77/120"]`, prefixes("45.158.83.0/24")},
		{"IPv4 as IPv6, in hexadecimal", `["::ffff:2d9e:5300/120"]`, prefixes("45.158.83.0/24")},
		{"IPv4 as IPv6, the widest", `["::ffff:45.158.0.0/112"]`, prefixes("45.158.0.0/16")},
		{"the same as IPv4 and as IPv6", `["::ffff:45.158.83.0/120","45.158.83.0/24"]`, prefixes("45.158.83.0/24")},
		{"just not private", `["172.32.0.0/16","11.0.0.0/16","192.169.0.0/16","169.253.0.0/16"]`,
			prefixes("11.0.0.0/16", "169.253.0.0/16", "172.32.0.0/16", "192.169.0.0/16")},
		{"1 MiB", `["45.158.83.0/24"]` + strings.Repeat(" ", 1<<20-len(`["45.158.83.0/24"]`)), prefixes("45.158.83.0/24")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := mailtrapwebhook.ParseIPRanges([]byte(tt.doc))
			require.NoError(t, err)
			require.Empty(t, cmp.Diff(tt.want, got, equateAddrs))
		})
	}
}

// badRanges are values of which one refuses the whole document, and the words that say why.
var badRanges = map[string]string{
	"45.158.0.0/15":               "wider than /16",
	"45.0.0.0/8":                  "wider than /16",
	"0.0.0.0/0":                   "wider than /16",
	"2600:1f14::/31":              "wider than /32",
	"2000::/3":                    "wider than /32",
	"::ffff:45.158.0.0/111":       "wider than /16",
	"::ffff:0.0.0.0/96":           "wider than /16",
	"::ffff:45.158.83.0/95":       "all of IPv4",
	"::ffff:45.158.83.0/24":       "all of IPv4", // meant as IPv4's /24, perhaps; it is the whole of it
	"::ffff:0:0/33":               "all of IPv4",
	"::fffe:0:0/95":               "all of IPv4", // the same, masked
	"::/0":                        "all of IPv4",
	"::/32":                       "all of IPv4",
	"10.0.0.0/8":                  "wider than /16",
	"10.0.0.0/16":                 "public internet",
	"10.1.2.3":                    "public internet",
	"172.16.0.0/16":               "public internet",
	"172.31.255.0/24":             "public internet",
	"192.168.0.0/16":              "public internet",
	"192.168.1.1":                 "public internet",
	"fc00::/32":                   "public internet",
	"fd12:3456::/48":              "public internet",
	"127.0.0.0/16":                "public internet",
	"127.0.0.1":                   "public internet",
	"::1":                         "public internet",
	"::/127":                      "public internet",
	"0.0.0.0":                     "public internet",
	"0.0.0.0/16":                  "public internet",
	"0.0.0.1/31":                  "public internet",
	"::":                          "public internet",
	"::/96":                       "public internet",
	"224.0.0.0/16":                "public internet",
	"224.0.0.1":                   "public internet",
	"239.255.255.255":             "public internet",
	"255.255.255.255":             "public internet",
	"255.255.0.0/16":              "public internet",
	"240.0.0.0/16":                "public internet",
	"0.1.0.0/16":                  "public internet",
	"ff02::1":                     "public internet",
	"ff00::/32":                   "public internet",
	"169.254.0.0/16":              "public internet",
	"169.254.169.254":             "public internet",
	"fe80::/64":                   "public internet",
	"::ffff:10.0.0.1":             "public internet",
	"::ffff:127.0.0.1":            "public internet",
	"::ffff:192.168.0.0/112":      "public internet",
	"::ffff:0.0.0.0":              "public internet",
	"fe80::1%eth0":                "zone",
	"2600:1f14::1%eth0":           "zone",
	"2600:1f14::1%":               "zone",
	"2600:1f14::%eth0/64":         "zone",
	"::ffff:45.158.83.129%eth0":   "zone",
	"45.158.83.129%eth0":          "zone",
	"::ffff:45.158.83.0%eth0/120": "zone",
}

func TestParseIPRangesRefusesTheWholeDocumentForOneBadEntry(t *testing.T) {
	for bad, why := range badRanges {
		t.Run(bad, func(t *testing.T) {
			for _, shape := range []string{
				`[%q]`, `["45.158.83.0/24",%q]`, `[%q,"45.158.83.0/24"]`, `{"a":{"b":[[%q]],"c":"45.158.83.0/24"}}`,
				`{"a":%q,"a":"45.158.83.0/24"}`,
			} {
				got, err := mailtrapwebhook.ParseIPRanges(fmt.Appendf(nil, shape, bad))
				requireRefused(t, got, err, why)
				require.ErrorContains(t, err, bad)
			}
		})
	}
}

func TestParseIPRangesRefusesWhatIsNoList(t *testing.T) {
	tests := []struct{ name, doc, why string }{
		{"nothing", ``, "not JSON"},
		{"a web page", `<!DOCTYPE html><p>45.158.83.0/24`, "not JSON"},
		{"cut off", `["45.158.83.0/24",`, "not JSON"},
		{"more after the end", `["45.158.83.0/24"] x`, "not JSON"},
		{"two documents", `["45.158.83.0/24"] ["5.181.200.0/24"]`, "not JSON"},
		{"plain text", "45.158.83.0/24\n", "not JSON"},
		{"too deep", strings.Repeat("[", 20000) + strings.Repeat("]", 20000), "not JSON"},
		{"null", `null`, "no prefix"},
		{"no entry", `{"prefixes":[]}`, "no prefix"},
		{"keys only", `{"45.158.83.0/24":true}`, "no prefix"},
		{"strings of another kind", `["a","45.158.83.0/33"]`, "no prefix"},
		{"over 1 MiB", `["45.158.83.0/24"]` + strings.Repeat(" ", 1<<20), "over 1 MiB"},
		{"a byte over 1 MiB", `["45.158.83.0/24"]` + strings.Repeat(" ", 1<<20+1-len(`["45.158.83.0/24"]`)), "over 1 MiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := mailtrapwebhook.ParseIPRanges([]byte(tt.doc))
			requireRefused(t, got, err, tt.why)
		})
	}
}

func TestParseIPRangesQuotesLittleOfTheDocument(t *testing.T) {
	doc, err := json.Marshal([]string{"fe80::1%" + strings.Repeat("z", 100_000)})
	require.NoError(t, err)
	_, err = mailtrapwebhook.ParseIPRanges(doc)
	require.Less(t, len(err.Error()), 300)
}

func requireRefused(t *testing.T, got []netip.Prefix, err error, why string) {
	t.Helper()
	require.ErrorContains(t, err, why)
	require.Nil(t, got)
	requireOnePrefix(t, err)
}

// requireOnePrefix fails unless err starts with the package's name, and has it nowhere else.
func requireOnePrefix(t *testing.T, err error) {
	t.Helper()
	require.True(t, strings.HasPrefix(err.Error(), "mailtrapwebhook: "), err)
	require.Equal(t, 1, strings.Count(err.Error(), "mailtrapwebhook"), err)
}

// mailtrapIO stands for mailtrap.io: the returned client reaches the handler https at every https URL and plain at
// every http one, whatever the host.
func mailtrapIO(t *testing.T, https, plain http.HandlerFunc) *http.Client {
	t.Helper()
	secure := httptest.NewTLSServer(https)
	t.Cleanup(secure.Close)
	insecure := httptest.NewServer(plain)
	t.Cleanup(insecure.Close)

	transport := secure.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.ServerName = "example.com" // as the certificate of httptest has it
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		to := secure.Listener.Addr()
		if strings.HasSuffix(addr, ":80") {
			to = insecure.Listener.Addr()
		}
		return new(net.Dialer).DialContext(ctx, network, to.String())
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func answerWith(doc string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(doc)) }
}

func redirectTo(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

const goodDoc = `{"ipv4":["45.158.83.0/24","5.181.200.0/24"]}`

func TestFetchIPRanges(t *testing.T) {
	var asked atomic.Pointer[http.Request]
	client := mailtrapIO(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r)
		answerWith(goodDoc)(w, r)
	}, nil)
	got, err := mailtrapwebhook.FetchIPRanges(t.Context(), client)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(prefixes("5.181.200.0/24", "45.158.83.0/24"), got, equateAddrs))
	require.Equal(t, "GET https://mailtrap.io/ip-ranges.json",
		asked.Load().Method+" https://"+asked.Load().Host+asked.Load().RequestURI)
}

func TestFetchIPRangesUsesTheDefaultClient(t *testing.T) {
	old := http.DefaultClient
	t.Cleanup(func() { http.DefaultClient = old })
	http.DefaultClient = mailtrapIO(t, answerWith(goodDoc), nil)
	got, err := mailtrapwebhook.FetchIPRanges(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, got, 2)
	require.Nil(t, http.DefaultClient.CheckRedirect, "it must be left as it was")
}

func TestFetchIPRangesRefuses(t *testing.T) {
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			answerWith(goodDoc)(w, r)
		}
	}
	tests := []struct {
		name    string
		handler http.HandlerFunc
		why     string
	}{
		{"404", status(404), "answered 404"},
		{"503", status(503), "answered 503"},
		{"another success", status(203), "answered 203"},
		{"not JSON", answerWith("<html>"), "not JSON"},
		{"a wide prefix", answerWith(`["45.158.83.0/24","0.0.0.0/0"]`), "wider than /16"},
		{"over 1 MiB", answerWith(goodDoc + strings.Repeat(" ", 1<<20)), "over 1 MiB"},
		{"cut off", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			answerWith(goodDoc)(w, r)
		}, "unexpected EOF"},
		{"redirects for ever", redirectTo("/ip-ranges.json"), "10 redirects"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := mailtrapwebhook.FetchIPRanges(t.Context(), mailtrapIO(t, tt.handler, nil))
			requireRefused(t, got, err, tt.why)
		})
	}
}

// endlessBody is a response body that counts what is read of it.
type endlessBody struct{ read int }

func (e *endlessBody) Read(p []byte) (int, error) {
	e.read += len(p)
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func (e *endlessBody) Close() error { return nil }

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestFetchIPRangesReadsNoMoreThanItMust(t *testing.T) {
	body := new(endlessBody)
	client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: body, Request: r}, nil
	})}
	got, err := mailtrapwebhook.FetchIPRanges(t.Context(), client)
	requireRefused(t, got, err, "over 1 MiB")
	require.Equal(t, 1<<20+1, body.read)
}

func TestFetchIPRangesFollowsRedirectsToHTTPSOnly(t *testing.T) {
	var plain atomic.Int32
	seen := func(w http.ResponseWriter, r *http.Request) {
		plain.Add(1)
		answerWith(goodDoc)(w, r)
	}
	to := func(url string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/ip-ranges.json" {
				redirectTo(url)(w, r)
				return
			}
			answerWith(goodDoc)(w, r)
		}
	}

	_, err := mailtrapwebhook.FetchIPRanges(t.Context(), mailtrapIO(t, to("https://elsewhere.example/list"), seen))
	require.NoError(t, err)

	client := mailtrapIO(t, to("http://mailtrap.io/list"), seen)
	got, err := mailtrapwebhook.FetchIPRanges(t.Context(), client)
	requireRefused(t, got, err, "away from https")
	require.Zero(t, plain.Load(), "nothing may be asked over http")
	require.Nil(t, client.CheckRedirect, "the caller's client must be left as it was")

	client.CheckRedirect = func(*http.Request, []*http.Request) error { return nil }
	_, err = mailtrapwebhook.FetchIPRanges(t.Context(), client)
	require.NoError(t, err, "a CheckRedirect of the client's decides alone")
	require.EqualValues(t, 1, plain.Load())

	mine := errors.New("mine")
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return mine }
	_, err = mailtrapwebhook.FetchIPRanges(t.Context(), client)
	require.ErrorIs(t, err, mine)
}

func TestFetchIPRangesHeedsTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	client := mailtrapIO(t, func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}, nil)
	got, err := mailtrapwebhook.FetchIPRanges(ctx, client)
	requireRefused(t, got, err, "cannot get")
	require.ErrorIs(t, err, context.Canceled)

	var none context.Context
	got, err = mailtrapwebhook.FetchIPRanges(none, client)
	requireRefused(t, got, err, "nil Context")
}

func TestIPAllowlistContains(t *testing.T) {
	list := mailtrapwebhook.NewIPAllowlist(prefixes("45.158.83.77/24", "192.0.2.1/32", "2001:db8::/32",
		"::ffff:198.51.100.0/120"))
	for addr, want := range map[string]bool{
		"45.158.83.0": true, "45.158.83.129": true, "45.158.83.255": true, "45.158.82.255": false, "45.158.84.0": false,
		"192.0.2.1": true, "192.0.2.0": false, "::ffff:45.158.83.129": true, "::ffff:45.158.84.0": false,
		"198.51.100.7": true, "::ffff:198.51.100.7": true, "198.51.101.7": false,
		"2001:db8::1": true, "2001:db9::1": false, "2001:db8::1%eth0": false, "::": false, "0.0.0.0": false,
		"::45.158.83.129": false, "2d9e:5381::": false,
	} {
		require.Equal(t, want, list.Contains(netip.MustParseAddr(addr)), addr)
	}
	zoned := netip.MustParseAddr("::ffff:45.158.83.129").WithZone("eth0")
	require.Equal(t, "eth0", zoned.Zone())
	require.False(t, list.Contains(zoned), "unmapping must not lose the zone")
	require.False(t, list.Contains(netip.Addr{}))
}

func TestIPAllowlistContainsNoIPv4InAPrefixOfIPv6(t *testing.T) {
	list := mailtrapwebhook.NewIPAllowlist(prefixes("::/0"))
	require.True(t, list.Contains(netip.MustParseAddr("2001:db8::1")))
	require.False(t, list.Contains(netip.MustParseAddr("192.0.2.1")))
	require.False(t, list.Contains(netip.MustParseAddr("::ffff:192.0.2.1")))
}

// everyone is what a refusing list must not contain.
var everyone = []string{"45.158.83.129", "192.0.2.1", "10.0.0.1", "0.0.0.0", "2001:db8::1", "::", "127.0.0.1"}

func requireNobody(t *testing.T, list *mailtrapwebhook.IPAllowlist) {
	t.Helper()
	for _, s := range everyone {
		require.False(t, list.Contains(netip.MustParseAddr(s)), s)
		r := requestFrom(net.JoinHostPort(s, "1234"))
		err := list.Guard()(r)
		require.ErrorIs(t, err, mailtrapwebhook.ErrForbidden)
		requireNoAddress(t, err)
		requireOnePrefix(t, err)
	}
}

func TestIPAllowlistRefusesEverybodyUnlessSetUpWell(t *testing.T) {
	good, invalid := prefixes("45.158.83.0/24", "0.0.0.0/0", "::/0"), netip.Prefix{}
	for name, list := range map[string]*mailtrapwebhook.IPAllowlist{
		"nil":                         nil,
		"zero":                        new(mailtrapwebhook.IPAllowlist),
		"nobody":                      mailtrapwebhook.NewIPAllowlist(nil),
		"an empty list":               mailtrapwebhook.NewIPAllowlist([]netip.Prefix{}, prefixes("10.0.0.0/8")...),
		"invalid":                     mailtrapwebhook.NewIPAllowlist([]netip.Prefix{invalid}),
		"invalid among others":        mailtrapwebhook.NewIPAllowlist(append(good, invalid)),
		"IPv4 in IPv6, too short":     mailtrapwebhook.NewIPAllowlist(append(prefixes("::ffff:45.158.83.0/95"), good...)),
		"a length out of range":       mailtrapwebhook.NewIPAllowlist([]netip.Prefix{netip.PrefixFrom(good[0].Addr(), 33)}),
		"an invalid proxy":            mailtrapwebhook.NewIPAllowlist(good, invalid),
		"an invalid one of proxies":   mailtrapwebhook.NewIPAllowlist(good, prefixes("127.0.0.0/8")[0], invalid),
		"a proxy's IPv4 in IPv6":      mailtrapwebhook.NewIPAllowlist(good, prefixes("::ffff:10.0.0.0/64")...),
		"invalid both here and there": mailtrapwebhook.NewIPAllowlist([]netip.Prefix{invalid}, invalid),
	} {
		t.Run(name, func(t *testing.T) { requireNobody(t, list) })
	}
}

func TestIPAllowlistNilHasNoClientAddrAndCannotBeSet(t *testing.T) {
	var list *mailtrapwebhook.IPAllowlist
	_, err := list.ClientAddr(requestFrom("45.158.83.129:1234"))
	require.ErrorContains(t, err, "nil")
	requireOnePrefix(t, err)
	err = list.Set(mailtrapwebhook.IPRanges())
	require.ErrorContains(t, err, "nil")
	requireOnePrefix(t, err)
}

func TestIPAllowlistSet(t *testing.T) {
	a, b := netip.MustParseAddr("45.158.83.129"), netip.MustParseAddr("5.181.200.1")
	list := mailtrapwebhook.NewIPAllowlist(prefixes("45.158.83.0/24"))

	for name, bad := range map[string][]netip.Prefix{
		"empty": {}, "nil": nil, "invalid": {{}}, "invalid among others": append(prefixes("5.181.200.0/24"), netip.Prefix{}),
		"IPv4 in IPv6": prefixes("5.181.200.0/24", "::ffff:5.181.200.0/24"),
	} {
		err := list.Set(bad)
		require.Error(t, err, name)
		requireOnePrefix(t, err)
		require.True(t, list.Contains(a), "%s: the old list must stay", name)
		require.False(t, list.Contains(b), "%s: nothing may be added", name)
	}

	given := prefixes("5.181.200.77/24", "::ffff:192.0.2.0/120")
	require.NoError(t, list.Set(given))
	require.False(t, list.Contains(a))
	require.True(t, list.Contains(b))
	require.True(t, list.Contains(netip.MustParseAddr("192.0.2.9")))

	given[0] = netip.MustParsePrefix("45.158.83.0/24")
	require.False(t, list.Contains(a), "the list must not share the caller's slice")
	require.True(t, list.Contains(b), "the list must not share the caller's slice")
}

func TestIPAllowlistSetMendsTheAllowedButNotTheProxies(t *testing.T) {
	a := netip.MustParseAddr("45.158.83.129")

	var zero mailtrapwebhook.IPAllowlist
	require.NoError(t, zero.Set(mailtrapwebhook.IPRanges()))
	require.True(t, zero.Contains(a))

	list := mailtrapwebhook.NewIPAllowlist([]netip.Prefix{{}})
	require.NoError(t, list.Set(mailtrapwebhook.IPRanges()))
	require.True(t, list.Contains(a))
	require.NoError(t, list.Guard()(requestFrom("45.158.83.129:1")))

	list = mailtrapwebhook.NewIPAllowlist(mailtrapwebhook.IPRanges(), netip.Prefix{})
	err := list.Set(mailtrapwebhook.IPRanges())
	require.ErrorContains(t, err, "trusted proxies")
	requireOnePrefix(t, err)
	requireNobody(t, list)
	_, err = list.ClientAddr(requestFrom("45.158.83.129:1"))
	require.ErrorContains(t, err, "trusted proxies")
}

func TestIPAllowlistDoesNotShareTheProxiesSlice(t *testing.T) {
	proxies := prefixes("10.0.0.0/8")
	list := mailtrapwebhook.NewIPAllowlist(mailtrapwebhook.IPRanges(), proxies...)
	proxies[0] = netip.MustParsePrefix("192.0.2.0/24")
	got, err := list.ClientAddr(requestFrom("192.0.2.1:1", "45.158.83.129"))
	require.NoError(t, err)
	require.Equal(t, "192.0.2.1", got.String())
}

func TestIPAllowlistIsSafeForConcurrentUse(t *testing.T) {
	one, other := prefixes("45.158.83.0/24", "192.0.2.0/24"), prefixes("5.181.200.0/24", "192.0.2.0/24")
	list := mailtrapwebhook.NewIPAllowlist(one, prefixes("10.0.0.0/8")...)
	guard := list.Guard()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 500 {
				next := one
				if (i+j)%2 == 0 {
					next = other
				}
				if err := list.Set(next); err != nil {
					t.Error(err)
				}
				if list.Set(nil) == nil {
					t.Error("an empty list was accepted")
				}
			}
		})
		wg.Go(func() {
			for range 500 {
				if !list.Contains(netip.MustParseAddr("192.0.2.1")) {
					t.Error("an address on both lists was refused")
				}
				if list.Contains(netip.MustParseAddr("198.51.100.1")) {
					t.Error("an address on neither list was allowed")
				}
				if err := guard(requestFrom("10.0.0.1:1", "192.0.2.1")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// requestFrom is a request that comes from the peer at remote, with the given lines of X-Forwarded-For.
func requestFrom(remote string, forwarded ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/webhook", nil)
	r.RemoteAddr = remote
	for _, line := range forwarded {
		r.Header.Add("X-Forwarded-For", line)
	}
	return r
}

// trusted are the proxies of the tests below; fd00::5 stands for one that writes its callers as IPv6.
var trustedHops = prefixes("10.0.0.0/8", "127.0.0.1/32", "::1/128", "fd00::/8", "::ffff:172.16.0.0/108")

// clientAddrTests have the trusted proxies above. Where want is empty, the request is refused.
var clientAddrTests = []struct {
	name      string
	remote    string
	forwarded []string
	want      string
}{
	// The peer, without a header.
	{"the peer", "192.0.2.1:1234", nil, "192.0.2.1"},
	{"the peer without port", "192.0.2.1", nil, "192.0.2.1"},
	{"the peer, IPv6", "[2001:db8::1]:1234", nil, "2001:db8::1"},
	{"the peer, IPv6 without port", "2001:db8::1", nil, "2001:db8::1"},
	{"the peer, IPv6 in brackets", "[2001:db8::1]", nil, "2001:db8::1"},
	{"the peer, spelled at length", "[2001:0DB8:0:0::0001]:1", nil, "2001:db8::1"},
	{"the peer, IPv4 as IPv6", "[::ffff:192.0.2.1]:1234", nil, "192.0.2.1"},
	{"the peer, IPv4 as IPv6 without port", "::ffff:192.0.2.1", nil, "192.0.2.1"},
	{"the peer, port 0", "192.0.2.1:0", nil, "192.0.2.1"},
	{"a trusted peer", "10.0.0.1:1234", nil, "10.0.0.1"},
	{"a trusted peer, IPv6", "[::1]:1234", nil, "::1"},
	{"a trusted peer, IPv4 as IPv6", "[::ffff:10.0.0.1]:1234", nil, "10.0.0.1"},

	// A peer that cannot be read, whatever the header says.
	{"no peer", "", nil, ""},
	{"no peer, with a header", "", []string{"45.158.83.129"}, ""},
	{"a Unix socket", "@", nil, ""},
	{"a Unix socket, with a header", "@", []string{"45.158.83.129"}, ""},
	{"a named Unix socket", "/run/app.sock", []string{"45.158.83.129"}, ""},
	{"pipe", "pipe", []string{"45.158.83.129"}, ""},
	{"a host name", "localhost:1234", []string{"45.158.83.129"}, ""},
	{"the peer has a zone", "[fe80::1%eth0]:1234", nil, ""},
	{"the peer has a zone, without port", "fe80::1%eth0", nil, ""},
	{"the peer has a zone, in brackets", "[fe80::1%eth0]", nil, ""},
	{"the peer is within the proxies but for a zone", "[fd00::5%eth0]:1", []string{"45.158.83.129"}, ""},
	{"the peer's port is no number", "192.0.2.1:http", nil, ""},
	{"the peer's port is too large", "192.0.2.1:65536", nil, ""},
	{"the peer's port is empty", "192.0.2.1:", nil, ""},
	{"the peer has white space", " 192.0.2.1:1", nil, ""},
	{"only a port", ":1234", nil, ""},
	{"two peers", "192.0.2.1, 192.0.2.2", nil, ""},

	// A header that an untrusted peer sent is not looked at.
	{"untrusted peer", "192.0.2.1:1234", []string{"45.158.83.129"}, "192.0.2.1"},
	{"untrusted peer claims a proxy", "192.0.2.1:1234", []string{"45.158.83.129, 10.0.0.1"}, "192.0.2.1"},
	{"untrusted peer, garbage", "192.0.2.1:1234", []string{"garbage"}, "192.0.2.1"},
	{"untrusted peer, empty header", "192.0.2.1:1234", []string{""}, "192.0.2.1"},
	{"untrusted peer, several lines", "192.0.2.1:1234", []string{"45.158.83.129", "10.0.0.1"}, "192.0.2.1"},
	{"untrusted peer, IPv6", "[2001:db8::1]:1", []string{"45.158.83.129"}, "2001:db8::1"},
	{"untrusted peer beside the proxies", "11.0.0.1:1", []string{"45.158.83.129"}, "11.0.0.1"},
	{"untrusted peer on the same machine", "127.0.0.2:1", []string{"45.158.83.129"}, "127.0.0.2"},

	// One trusted proxy.
	{"one hop", "10.0.0.1:1234", []string{"45.158.83.129"}, "45.158.83.129"},
	{"one hop, peer without port", "10.0.0.1", []string{"45.158.83.129"}, "45.158.83.129"},
	{"one hop, IPv6 peer", "[::1]:1234", []string{"45.158.83.129"}, "45.158.83.129"},
	{"one hop, IPv4 peer as IPv6", "[::ffff:10.0.0.1]:1", []string{"45.158.83.129"}, "45.158.83.129"},
	{"one hop, proxy given as IPv6", "172.16.0.1:1", []string{"45.158.83.129"}, "45.158.83.129"},
	{"one hop, port", "10.0.0.1:1", []string{"45.158.83.129:5678"}, "45.158.83.129"},
	{"one hop, IPv6", "10.0.0.1:1", []string{"2001:db8::1"}, "2001:db8::1"},
	{"one hop, IPv6 that ends as a port does", "10.0.0.1:1", []string{"2001:db8::1:443"}, "2001:db8::1:443"},
	{"one hop, IPv6 in brackets", "10.0.0.1:1", []string{"[2001:db8::1]"}, "2001:db8::1"},
	{"one hop, IPv6 and port", "10.0.0.1:1", []string{"[2001:db8::1]:5678"}, "2001:db8::1"},
	{"one hop, IPv4 as IPv6", "10.0.0.1:1", []string{"::ffff:45.158.83.129"}, "45.158.83.129"},
	{"one hop, IPv4 as IPv6 in brackets", "10.0.0.1:1", []string{"[::ffff:45.158.83.129]"}, "45.158.83.129"},
	{"one hop, IPv4 as IPv6 and port", "10.0.0.1:1", []string{"[::ffff:45.158.83.129]:80"}, "45.158.83.129"},
	{"one hop, IPv4 as IPv6 in hexadecimal", "10.0.0.1:1", []string{"::ffff:2d9e:5381"}, "45.158.83.129"},
	{"one hop, spaces", "10.0.0.1:1", []string{"  45.158.83.129  "}, "45.158.83.129"},
	{"one hop, tabs", "10.0.0.1:1", []string{"\t45.158.83.129\t"}, "45.158.83.129"},
	{"the longest address", "10.0.0.1:1", []string{"[2001:0db8:ffff:ffff:ffff:ffff:255.255.255.255]:65535"},
		"2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"},

	// What stands left of the client is whatever the client wrote.
	{"spoofed", "10.0.0.1:1", []string{"45.158.83.129, 192.0.2.1"}, "192.0.2.1"},
	{"spoofed, no space", "10.0.0.1:1", []string{"45.158.83.129,192.0.2.1"}, "192.0.2.1"},
	{"spoofed twice", "10.0.0.1:1", []string{"45.158.83.129, 45.158.83.130, 192.0.2.1"}, "192.0.2.1"},
	{"spoofed, with a proxy", "10.0.0.1:1", []string{"45.158.83.129, 10.0.0.9, 192.0.2.1"}, "192.0.2.1"},
	{"spoofed in a line of its own", "10.0.0.1:1", []string{"45.158.83.129", "192.0.2.1"}, "192.0.2.1"},
	{"spoofed, then proxies", "10.0.0.1:1", []string{"45.158.83.129, 192.0.2.1, 10.0.0.2"}, "192.0.2.1"},
	{"garbage left of the client", "10.0.0.1:1", []string{"garbage, 45.158.83.129"}, "45.158.83.129"},
	{"empty left of the client", "10.0.0.1:1", []string{",45.158.83.129"}, "45.158.83.129"},
	{"many empty left of the client", "10.0.0.1:1", []string{", ,,45.158.83.129"}, "45.158.83.129"},
	{"a zone left of the client", "10.0.0.1:1", []string{"fe80::1%eth0, 45.158.83.129"}, "45.158.83.129"},
	{"garbage in a line to the left", "10.0.0.1:1", []string{"unknown", "45.158.83.129"}, "45.158.83.129"},
	{"an empty line to the left", "10.0.0.1:1", []string{"", "45.158.83.129"}, "45.158.83.129"},

	// Chains of proxies.
	{"two proxies", "10.0.0.1:1", []string{"45.158.83.129, 10.0.0.2"}, "45.158.83.129"},
	{"three proxies", "10.0.0.1:1", []string{"45.158.83.129, 10.0.0.3, 10.0.0.2"}, "45.158.83.129"},
	{"proxies of both kinds", "[::1]:1", []string{"45.158.83.129, 10.0.0.3, [fd00::5]:80, fd00::6"}, "45.158.83.129"},
	{"a proxy with port", "10.0.0.1:1", []string{"45.158.83.129:1, 10.0.0.2:2"}, "45.158.83.129"},
	{"a proxy, IPv4 as IPv6", "10.0.0.1:1", []string{"45.158.83.129, ::ffff:10.0.0.2"}, "45.158.83.129"},
	{"a proxy given as IPv6", "10.0.0.1:1", []string{"45.158.83.129, 172.16.0.9"}, "45.158.83.129"},
	{"a proxy a line", "10.0.0.1:1", []string{"45.158.83.129", "10.0.0.3", "10.0.0.2"}, "45.158.83.129"},
	{"lines of several", "10.0.0.1:1", []string{"192.0.2.1, 45.158.83.129", "10.0.0.3, 10.0.0.2"}, "45.158.83.129"},
	{"an unknown proxy in between", "10.0.0.1:1", []string{"45.158.83.129, 192.0.2.9, 10.0.0.2"}, "192.0.2.9"},
	{"beside the proxies", "10.0.0.1:1", []string{"45.158.83.129, 172.32.0.1"}, "172.32.0.1"},

	// All of them trusted.
	{"all trusted, one", "10.0.0.1:1", []string{"10.0.0.2"}, "10.0.0.2"},
	{"all trusted, the leftmost", "10.0.0.1:1", []string{"10.0.0.4, 10.0.0.3, 10.0.0.2"}, "10.0.0.4"},
	{"all trusted, of several lines", "10.0.0.1:1", []string{"10.0.0.4", "10.0.0.3, 10.0.0.2"}, "10.0.0.4"},
	{"all trusted, IPv4 as IPv6", "10.0.0.1:1", []string{"[::ffff:10.0.0.4]:1, 10.0.0.2"}, "10.0.0.4"},

	// A hop that is reached and cannot be read.
	{"an empty header", "10.0.0.1:1", []string{""}, ""},
	{"a blank header", "10.0.0.1:1", []string{" \t "}, ""},
	{"a comma", "10.0.0.1:1", []string{","}, ""},
	{"a comma at the end", "10.0.0.1:1", []string{"45.158.83.129,"}, ""},
	{"a comma at the end, after proxies", "10.0.0.1:1", []string{"45.158.83.129, 10.0.0.2, "}, ""},
	{"two commas", "10.0.0.1:1", []string{"45.158.83.129,,10.0.0.2"}, ""},
	{"a comma at the start", "10.0.0.1:1", []string{",10.0.0.2"}, ""},
	{"an empty last line", "10.0.0.1:1", []string{"45.158.83.129", ""}, ""},
	{"an empty line in between", "10.0.0.1:1", []string{"45.158.83.129", "", "10.0.0.2"}, ""},
	{"an empty first line", "10.0.0.1:1", []string{"", "10.0.0.2"}, ""},
	{"unknown", "10.0.0.1:1", []string{"unknown"}, ""},
	{"unknown behind a proxy", "10.0.0.1:1", []string{"45.158.83.129, unknown, 10.0.0.2"}, ""},
	{"unknown at the end", "10.0.0.1:1", []string{"45.158.83.129, unknown"}, ""},
	{"a host name as hop", "10.0.0.1:1", []string{"mailtrap.io"}, ""},
	{"a prefix", "10.0.0.1:1", []string{"45.158.83.129/32"}, ""},
	{"quoted", "10.0.0.1:1", []string{`"45.158.83.129"`}, ""},
	{"the form of Forwarded", "10.0.0.1:1", []string{"for=45.158.83.129"}, ""},
	{"separated by white space", "10.0.0.1:1", []string{"192.0.2.1 45.158.83.129"}, ""},
	{"separated by semicolons", "10.0.0.1:1", []string{"192.0.2.1;45.158.83.129"}, ""},
	{"a line break within", "10.0.0.1:1", []string{"45.158.83.129\n"}, ""},
	{"a no-break space", "10.0.0.1:1", []string{"\u00a045.158.83.129"}, ""},
	{"a zone", "10.0.0.1:1", []string{"fe80::1%eth0"}, ""},
	{"a zone in brackets", "10.0.0.1:1", []string{"[fe80::1%eth0]"}, ""},
	{"a zone and port", "10.0.0.1:1", []string{"[fe80::1%eth0]:80"}, ""},
	{"a proxy with a zone", "10.0.0.1:1", []string{"45.158.83.129, fd00::5%eth0"}, ""},
	{"a zone on IPv4", "10.0.0.1:1", []string{"45.158.83.129%eth0"}, ""},
	{"a zone on IPv4 as IPv6", "10.0.0.1:1", []string{"::ffff:45.158.83.129%eth0"}, ""},
	{"a port that is no number", "10.0.0.1:1", []string{"45.158.83.129:http"}, ""},
	{"a port that is too large", "10.0.0.1:1", []string{"45.158.83.129:65536"}, ""},
	{"a port with a sign", "10.0.0.1:1", []string{"45.158.83.129:+80"}, ""},
	{"an empty port", "10.0.0.1:1", []string{"45.158.83.129:"}, ""},
	{"an empty port after brackets", "10.0.0.1:1", []string{"[2001:db8::1]:"}, ""},
	{"two ports", "10.0.0.1:1", []string{"45.158.83.129:80:80"}, ""},
	{"two ports after brackets", "10.0.0.1:1", []string{"[2001:db8::1]:80:80"}, ""},
	{"IPv4 in brackets", "10.0.0.1:1", []string{"[45.158.83.129]"}, ""},
	{"IPv4 in brackets and port", "10.0.0.1:1", []string{"[45.158.83.129]:80"}, ""},
	{"empty brackets", "10.0.0.1:1", []string{"[]"}, ""},
	{"one bracket", "10.0.0.1:1", []string{"["}, ""},
	{"brackets not closed", "10.0.0.1:1", []string{"[2001:db8::1"}, ""},
	{"brackets not opened", "10.0.0.1:1", []string{"2001:db8::1]"}, ""},
	{"brackets twice", "10.0.0.1:1", []string{"[[2001:db8::1]]"}, ""},
	{"white space in brackets", "10.0.0.1:1", []string{"[ 2001:db8::1 ]"}, ""},
	{"text after brackets", "10.0.0.1:1", []string{"[2001:db8::1]80"}, ""},
	{"too few numbers", "10.0.0.1:1", []string{"45.158.83"}, ""},
	{"a number over 255", "10.0.0.1:1", []string{"45.158.83.256"}, ""},
	{"a leading zero", "10.0.0.1:1", []string{"45.158.083.129"}, ""},
	{"hexadecimal IPv4", "10.0.0.1:1", []string{"0x2d9e5381"}, ""},
	{"a number alone", "10.0.0.1:1", []string{"765350785"}, ""},
	{"longer than any address", "10.0.0.1:1", []string{"45.158.83.129:" + strings.Repeat("0", 60) + "80"}, ""},
}

func TestClientAddr(t *testing.T) {
	require.GreaterOrEqual(t, len(clientAddrTests), 80)
	everywhere := mailtrapwebhook.NewIPAllowlist(prefixes("0.0.0.0/0", "::/0"), trustedHops...)
	nowhere := mailtrapwebhook.NewIPAllowlist(nil, trustedHops...)
	mailtrap := mailtrapwebhook.NewIPAllowlist(mailtrapwebhook.IPRanges(), trustedHops...)
	for _, tt := range clientAddrTests {
		t.Run(tt.name, func(t *testing.T) {
			r := requestFrom(tt.remote, tt.forwarded...)
			got, err := everywhere.ClientAddr(r)
			guardErr := everywhere.Guard()(r)
			if tt.want == "" {
				require.Error(t, err)
				require.Equal(t, netip.Addr{}, got)
				requireNoAddress(t, err)
				requireOnePrefix(t, err)
				require.ErrorIs(t, guardErr, mailtrapwebhook.ErrForbidden)
				requireNoAddress(t, guardErr)
				requireOnePrefix(t, guardErr)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, got.String())
			require.NoError(t, guardErr)

			got, err = nowhere.ClientAddr(r)
			require.NoError(t, err, "who the client is does not depend on who is allowed")
			require.Equal(t, tt.want, got.String())
			require.ErrorIs(t, nowhere.Guard()(r), mailtrapwebhook.ErrForbidden)

			err = mailtrap.Guard()(r)
			if strings.HasPrefix(tt.want, "45.158.83.") {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, mailtrapwebhook.ErrForbidden)
			requireNoAddress(t, err)
			requireOnePrefix(t, err)
		})
	}
}

func TestClientAddrWithoutTrustedProxiesIsThePeer(t *testing.T) {
	list := mailtrapwebhook.NewIPAllowlist(mailtrapwebhook.IPRanges())
	for _, tt := range clientAddrTests {
		want, wantErr := list.ClientAddr(requestFrom(tt.remote))
		got, err := list.ClientAddr(requestFrom(tt.remote, tt.forwarded...))
		require.Equal(t, want, got, tt.name)
		require.Equal(t, wantErr == nil, err == nil, tt.name)
	}
}

func TestClientAddrReadsNoOtherHeader(t *testing.T) {
	list := mailtrapwebhook.NewIPAllowlist(mailtrapwebhook.IPRanges(), trustedHops...)
	r := requestFrom("10.0.0.1:1", "192.0.2.1")
	for _, name := range []string{"X-Real-Ip", "Forwarded", "True-Client-Ip", "Cf-Connecting-Ip", "X-Client-Ip"} {
		r.Header.Set(name, "45.158.83.129")
	}
	got, err := list.ClientAddr(r)
	require.NoError(t, err)
	require.Equal(t, "192.0.2.1", got.String())

	r.Header.Del("X-Forwarded-For")
	got, err = list.ClientAddr(r)
	require.NoError(t, err)
	require.Equal(t, "10.0.0.1", got.String())
}

// requireNoAddress fails if err holds anything that reads as an address.
func requireNoAddress(t *testing.T, err error) {
	t.Helper()
	for _, word := range strings.FieldsFunc(err.Error(), func(c rune) bool { return strings.ContainsRune(" ,;\"'()[]", c) }) {
		for _, s := range []string{word, strings.TrimSuffix(word, ":")} {
			_, notAddr := netip.ParseAddr(s)
			_, notPort := netip.ParseAddrPort(s)
			_, notPrefix := netip.ParsePrefix(s)
			require.True(t, notAddr != nil && notPort != nil && notPrefix != nil, err)
		}
	}
	for _, part := range []string{"45.158", "192.0.2", "10.0.0", "fe80", "db8", "eth0", "unknown", "::"} {
		require.NotContains(t, err.Error(), part)
	}
}

// The table above must tell the right algorithm from the ones that people write: each of these fails it.
func TestClientAddrTableCatchesWrongImplementations(t *testing.T) {
	isTrusted := func(a netip.Addr) bool {
		for _, p := range append(prefixes("172.16.0.0/12"), trustedHops...) {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}
	hops := func(r *http.Request) []string {
		if r.Header.Values("X-Forwarded-For") == nil {
			return nil
		}
		return strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	}
	wrong := map[string]func(*http.Request) (netip.Addr, bool){
		"the leftmost": func(r *http.Request) (netip.Addr, bool) {
			if h := hops(r); h != nil {
				return naiveHop(h[0])
			}
			return naiveHop(r.RemoteAddr)
		},
		"the leftmost, from a trusted peer": func(r *http.Request) (netip.Addr, bool) {
			peer, ok := naiveHop(r.RemoteAddr)
			if h := hops(r); ok && isTrusted(peer) && h != nil {
				return naiveHop(h[0])
			}
			return peer, ok
		},
		"the rightmost": func(r *http.Request) (netip.Addr, bool) {
			peer, ok := naiveHop(r.RemoteAddr)
			if h := hops(r); ok && isTrusted(peer) && h != nil {
				return naiveHop(h[len(h)-1])
			}
			return peer, ok
		},
		"the first line only": func(r *http.Request) (netip.Addr, bool) {
			one := requestFrom(r.RemoteAddr)
			if v := r.Header.Get("X-Forwarded-For"); v != "" {
				one.Header.Set("X-Forwarded-For", v)
			}
			return naiveClientAddr(one, isTrusted)
		},
		"empty hops skipped": func(r *http.Request) (netip.Addr, bool) {
			one := requestFrom(r.RemoteAddr)
			for _, h := range hops(r) {
				if strings.TrimSpace(h) != "" {
					one.Header.Add("X-Forwarded-For", h)
				}
			}
			return naiveClientAddr(one, isTrusted)
		},
		"the peer not asked": func(r *http.Request) (netip.Addr, bool) {
			return naiveClientAddr(requestFrom("10.0.0.1", r.Header.Values("X-Forwarded-For")...), isTrusted)
		},
	}
	failures := func(clientAddr func(*http.Request) (netip.Addr, bool)) (names []string) {
		for _, tt := range clientAddrTests {
			got, ok := clientAddr(requestFrom(tt.remote, tt.forwarded...))
			if ok != (tt.want != "") || ok && got.String() != tt.want {
				names = append(names, tt.name)
			}
		}
		return names
	}
	for name, clientAddr := range wrong {
		require.NotEmpty(t, failures(clientAddr), name)
	}
	require.Contains(t, failures(wrong["the leftmost"]), "spoofed")
	require.Contains(t, failures(wrong["the leftmost"]), "untrusted peer")
	require.Contains(t, failures(wrong["the leftmost, from a trusted peer"]), "spoofed")
	require.Empty(t, failures(func(r *http.Request) (netip.Addr, bool) { return naiveClientAddr(r, isTrusted) }))
}

func TestClientAddrDoesNoWorkForTheUnreachedPartOfTheHeader(t *testing.T) {
	list := mailtrapwebhook.NewIPAllowlist(mailtrapwebhook.IPRanges(), trustedHops...)
	allocs := func(r *http.Request) float64 {
		return testing.AllocsPerRun(100, func() {
			if _, err := list.ClientAddr(r); err != nil {
				t.Error(err)
			}
		})
	}
	short := allocs(requestFrom("10.0.0.1:1", "45.158.83.129, 10.0.0.2"))
	long := allocs(requestFrom("10.0.0.1:1", strings.Repeat("192.0.2.1, ", 50_000)+"45.158.83.129, 10.0.0.2"))
	require.Equal(t, short, long)
	require.LessOrEqual(t, long, 2.0)
}

func TestClientAddrCostsLittleForAHopThatIsLong(t *testing.T) {
	list := mailtrapwebhook.NewIPAllowlist(mailtrapwebhook.IPRanges(), trustedHops...)
	for _, long := range []string{"%s", "[%s]", "45.158.83.129:%s", "fe80::1%%%s", "[%s", "[%s]:1"} {
		r := requestFrom("10.0.0.1:1", fmt.Sprintf(long, strings.Repeat("9", 1<<20)))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 100 {
			_, err := list.ClientAddr(r)
			require.Error(t, err)
		}
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20), long)
	}
}

// Example of the guard in front of a handler, behind a proxy on the same machine.
func ExampleIPAllowlist_Guard() {
	allowlist := mailtrapwebhook.NewIPAllowlist(mailtrapwebhook.IPRanges(), netip.MustParsePrefix("127.0.0.1/32"))
	guard := allowlist.Guard()

	for _, forwarded := range []string{"45.158.83.129", "45.158.83.129, 203.0.113.7"} {
		r := httptest.NewRequest(http.MethodPost, "/webhook", nil)
		r.RemoteAddr = "127.0.0.1:40000"
		r.Header.Set("X-Forwarded-For", forwarded) // what the client sent, then the address that the proxy saw
		fmt.Println(guard(r) == nil)
	}
	// Output:
	// true
	// false
}
