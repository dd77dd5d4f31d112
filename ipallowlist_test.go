package mailtrapwebhook_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/mailtrapwebhook/mailtrapwebhook"
	"github.com/stretchr/testify/require"
)

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

// Each refusal names the one thing that is to be mended.
func TestIPAllowlistSaysWhyItRefuses(t *testing.T) {
	mailtrap := mailtrapwebhook.IPRanges()
	list := mailtrapwebhook.NewIPAllowlist(mailtrap, trustedHops...)
	tests := []struct {
		name      string
		list      *mailtrapwebhook.IPAllowlist
		remote    string
		forwarded []string
		why       string
	}{
		{"nil", nil, "45.158.83.129:1", nil, "the IPAllowlist is nil: make one with NewIPAllowlist"},
		{"zero", new(mailtrapwebhook.IPAllowlist), "45.158.83.129:1", nil, "accepts nobody, because it has no valid prefixes: pass"},
		{"nobody allowed, whoever asks", mailtrapwebhook.NewIPAllowlist(nil), "@", nil, "accepts nobody"},
		{"an invalid proxy", mailtrapwebhook.NewIPAllowlist(mailtrap, trustedHops[0], netip.Prefix{}), "45.158.83.129:1", nil,
			"the trusted proxies are invalid: correct them and make a new IPAllowlist: prefix 2 of 2 is not a valid prefix"},

		{"a stranger", list, "192.0.2.1:1", nil, "the client's address is not on the IPAllowlist"},
		{"a stranger with a header", list, "192.0.2.1:1", []string{"45.158.83.129"}, "the client's address is not on the IPAllowlist"},
		{"a stranger behind a proxy", list, "10.0.0.1:1", []string{"192.0.2.1"}, "the client's address is not on the IPAllowlist"},
		{"a stranger behind proxies", list, "10.0.0.1:1", []string{"45.158.83.129, 192.0.2.1, 10.0.0.2"}, "the client's address is not on the IPAllowlist"},

		{"a proxy without the header", list, "10.0.0.1:1", nil, "the trusted proxy sent no X-Forwarded-For header: configure it"},
		{"a proxy without the header, IPv6", list, "[::ffff:10.0.0.1]:1", nil, "the trusted proxy sent no X-Forwarded-For header"},
		{"a proxy behind a proxy without the header", list, "10.0.0.1:1", []string{"10.0.0.2"}, "all addresses in X-Forwarded-For are trusted proxies: let the outermost"},
		{"a Unix socket", list, "@", nil, "RemoteAddr of the request is not an IP address: behind a Unix socket"},
		{"a zone", list, "[fe80::1%eth0]:1", nil, "RemoteAddr of the request has a zone"},
		{"an empty header", list, "10.0.0.1:1", []string{""}, "an entry in X-Forwarded-For is not an IP address, or has a zone: configure"},
		{"unknown", list, "10.0.0.1:1", []string{"45.158.83.129, unknown"}, "an entry in X-Forwarded-For is not an IP address"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := test.list.Guard()(requestFrom(test.remote, test.forwarded...))
			require.ErrorIs(t, err, mailtrapwebhook.ErrForbidden)
			require.ErrorContains(t, err, test.why)
			requireNoAddress(t, err)
			requireOnePrefix(t, err)
		})
	}
}

func TestIPAllowlistAcceptsAProxyThatIsOnTheList(t *testing.T) {
	list := mailtrapwebhook.NewIPAllowlist(prefixes("10.0.0.1/32"), trustedHops...)
	require.NoError(t, list.Guard()(requestFrom("10.0.0.1:1")), "a health check of the proxy's own")
	require.Error(t, list.Guard()(requestFrom("10.0.0.1:1", "192.0.2.1")))
}

func TestIPAllowlistGuardHeedsALaterSet(t *testing.T) {
	list := mailtrapwebhook.NewIPAllowlist(nil)
	guard := list.Guard()
	require.Error(t, guard(requestFrom("45.158.83.129:1")))
	require.NoError(t, list.Set(mailtrapwebhook.IPRanges()))
	require.NoError(t, guard(requestFrom("45.158.83.129:1")))
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

// naiveClientAddr is what ClientAddr must return, written without regard to cost.
func naiveClientAddr(r *http.Request, isTrusted func(netip.Addr) bool) (netip.Addr, bool) {
	client, ok := naiveHop(r.RemoteAddr)
	if !ok || !isTrusted(client) || len(r.Header.Values("X-Forwarded-For")) == 0 {
		return client, ok
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	slices.Reverse(hops)
	for _, hop := range hops {
		if client, ok = naiveHop(strings.Trim(hop, " \t")); !ok || !isTrusted(client) {
			return client, ok
		}
	}
	return client, true
}

// naiveHop reads an address by way of package net rather than net/netip.
func naiveHop(s string) (netip.Addr, bool) {
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return netip.Addr{}, false
		}
		host = h
	}
	bracketed := strings.HasPrefix(s, "[")
	if host == s && bracketed && strings.HasSuffix(s, "]") {
		host = s[1 : len(s)-1]
	}
	ip := net.ParseIP(host) // which reads no zone
	if ip == nil || bracketed && !strings.Contains(host, ":") || len(s) > 53 {
		return netip.Addr{}, false
	}
	if !bracketed && host != s && strings.Contains(host, ":") {
		return netip.Addr{}, false
	}
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
}

func FuzzClientAddr(f *testing.F) {
	for _, tt := range clientAddrTests {
		f.Add(tt.remote, strings.Join(tt.forwarded, "\n"), len(tt.forwarded) > 0)
	}
	isTrusted := func(a netip.Addr) bool {
		return slices.ContainsFunc(append(prefixes("172.16.0.0/12"), trustedHops...),
			func(p netip.Prefix) bool { return p.Contains(a) })
	}
	list := mailtrapwebhook.NewIPAllowlist(mailtrapwebhook.IPRanges(), trustedHops...)
	guard := list.Guard()

	f.Fuzz(func(t *testing.T, remote, lines string, sent bool) {
		var forwarded []string
		if sent {
			forwarded = strings.Split(lines, "\n")
		}
		r := requestFrom(remote, forwarded...)
		got, err := list.ClientAddr(r)
		want, ok := naiveClientAddr(r, isTrusted)
		require.Equal(t, ok, err == nil, "%q %q: %v", remote, forwarded, err)
		verdict := guard(r)
		if !ok {
			require.Equal(t, netip.Addr{}, got)
			require.ErrorIs(t, verdict, mailtrapwebhook.ErrForbidden)
			return
		}
		require.Equal(t, want, got, "%q %q", remote, forwarded)
		require.False(t, got.Is4In6() || got.Zone() != "")
		require.Equal(t, list.Contains(got), verdict == nil)

		// The same request from an untrusted peer, and with something written left of the client by a trusted one.
		r = requestFrom("192.0.2.1:1", forwarded...)
		got, err = list.ClientAddr(r)
		require.NoError(t, err)
		require.Equal(t, "192.0.2.1", got.String())
		require.ErrorIs(t, guard(r), mailtrapwebhook.ErrForbidden)

		r = requestFrom("10.0.0.1:1", append(forwarded, "192.0.2.1, 10.0.0.2")...)
		got, err = list.ClientAddr(r)
		require.NoError(t, err)
		require.Equal(t, "192.0.2.1", got.String())
		require.ErrorIs(t, guard(r), mailtrapwebhook.ErrForbidden)
	})
}
