package mailtrapwebhook_test

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

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

// specialRanges are the prefixes that no range may overlap.
var specialRanges = prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "0.0.0.0/32", "169.254.0.0/16",
	"0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/128", "::1/128", "fc00::/7", "fe80::/10", "ff00::/8", "::ffff:0:0/96")

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
