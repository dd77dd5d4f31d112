package mailtrapwebhook_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/stretchr/testify/require"
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
	"100.64.0.0/16":               "public internet",
	"100.127.255.255":             "public internet",
	"fc00::/32":                   "public internet",
	"fec0::/32":                   "public internet",
	"64:ff9b::/96":                "public internet",
	"64:ff9b::/32":                "public internet",
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
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := mailtrapwebhook.FetchIPRanges(t.Context(), mailtrapIO(t, tt.handler, nil))
			requireRefused(t, got, err, tt.why)
		})
	}
}

func TestFetchIPRangesStopsAfterTenRedirects(t *testing.T) {
	var asked atomic.Int32
	client := mailtrapIO(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		redirectTo("/ip-ranges.json")(w, r)
	}, nil)
	got, err := mailtrapwebhook.FetchIPRanges(t.Context(), client)
	requireRefused(t, got, err, "10 redirects")
	require.EqualValues(t, 10, asked.Load())
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
		panic(http.ErrAbortHandler) // an empty answer could still reach the client
	}, nil)
	got, err := mailtrapwebhook.FetchIPRanges(ctx, client)
	requireRefused(t, got, err, "cannot get")
	require.ErrorIs(t, err, context.Canceled)

	var none context.Context
	got, err = mailtrapwebhook.FetchIPRanges(none, client)
	requireRefused(t, got, err, "nil Context")
}

// specialRanges are the prefixes that no range may overlap.
var specialRanges = prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "0.0.0.0/32", "169.254.0.0/16",
	"0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/128", "::1/128", "fc00::/7", "fe80::/10", "ff00::/8", "::ffff:0:0/96", "100.64.0.0/10",
	"64:ff9b::/96", "fec0::/10")

// naiveRanges walks the unmarshalled document. keys is how many object keys it met, a repeated one counted once.
func naiveRanges(v any, each func(netip.Prefix)) (keys int) {
	switch v := v.(type) {
	case map[string]any:
		keys = len(v)
		for _, member := range v {
			keys += naiveRanges(member, each)
		}
	case []any:
		for _, element := range v {
			keys += naiveRanges(element, each)
		}
	case string:
		if host, _, zoned := strings.Cut(v, "%"); zoned {
			if net.ParseIP(host) != nil {
				each(netip.Prefix{}) // which is unfit
			}
			return keys
		}
		if a, err := netip.ParseAddr(v); err == nil {
			v = netip.PrefixFrom(a, a.BitLen()).String()
		}
		if p, err := netip.ParsePrefix(v); err == nil {
			each(p)
		}
	}
	return keys
}

var jsonString = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

func FuzzParseIPRanges(f *testing.F) {
	f.Add([]byte(goodDoc))
	f.Add([]byte(`["2600:1f14::1\u0025eth0","45.158.83.0/24"]`))
	f.Add([]byte(`{"a":"45.158.83.0/24","a":["5.181.200.0/24","::ffff:192.0.2.0/120"],"8.8.8.8":1e999}`))
	for bad := range badRanges {
		f.Add([]byte(`["45.158.83.0/24",` + strconv.Quote(bad) + `]`))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		got, err := mailtrapwebhook.ParseIPRanges(doc)
		if err != nil {
			requireOnePrefix(t, err)
			require.Nil(t, got)
		} else {
			require.NotEmpty(t, got)
			requireFit(t, got)
		}

		var v any
		d := json.NewDecoder(bytes.NewReader(doc))
		d.UseNumber()
		if !json.Valid(doc) || d.Decode(&v) != nil {
			require.Error(t, err)
			return
		}
		var want []netip.Prefix
		keys := naiveRanges(v, func(p netip.Prefix) {
			if p.Addr().Is4In6() && p.Bits() >= 96 {
				p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
			}
			if p = p.Masked(); !slices.Contains(want, p) {
				want = append(want, p)
			}
		})
		if err == nil {
			require.Subset(t, got, want)
		}
		if bytes.Count(jsonString.ReplaceAll(doc, nil), []byte(":")) != keys {
			return // equal keys, of which unmarshalling keeps one
		}
		if len(want) > 0 && !slices.ContainsFunc(want, unfit) {
			require.NoError(t, err)
		}
		if len(want) == 0 || slices.ContainsFunc(want, unfit) {
			require.Error(t, err)
		}
		if err == nil {
			slices.SortFunc(want, comparePrefixes)
			require.Empty(t, cmp.Diff(want, got, equateAddrs))
		}
	})
}

// requireFit fails unless ranges is what an allow-list can take unseen.
func requireFit(t *testing.T, ranges []netip.Prefix) {
	t.Helper()
	for i, p := range ranges {
		require.True(t, p.IsValid())
		require.Equal(t, p.Masked(), p)
		require.False(t, unfit(p), p)
		require.True(t, i == 0 || comparePrefixes(ranges[i-1], p) < 0, "not sorted, or twice: %v", ranges)
	}
	require.NoError(t, new(mailtrapwebhook.IPAllowlist).Set(ranges))
}

func unfit(p netip.Prefix) bool {
	return p.Bits() < 16 || p.Addr().Is6() && p.Bits() < 32 || slices.ContainsFunc(specialRanges, p.Overlaps)
}

func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}
