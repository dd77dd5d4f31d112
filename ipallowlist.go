package mailtrapwebhook

import (
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
)

const forwardedHeader = "X-Forwarded-For"

// An IPAllowlist accepts requests by the address of their client. Make one with
// [NewIPAllowlist] and put its [IPAllowlist.Guard] into [Handler].Guards.
//
// An IPAllowlist adds to the signature and never replaces it. All customers'
// webhooks leave Mailtrap from the same addresses: only the signature tells that
// a request is about your account.
//
// An IPAllowlist trusts r.RemoteAddr as the server set it. Do not use middleware
// that copies an address from a header into r.RemoteAddr.
//
// The zero IPAllowlist accepts nobody, and a nil one refuses everything. An
// IPAllowlist is safe for concurrent use and must not be copied after first use.
type IPAllowlist struct {
	allowed    atomic.Pointer[[]netip.Prefix]
	proxies    []netip.Prefix
	badProxies error // why the trusted proxies cannot be used
}

// Why an IPAllowlist refuses a request. No text holds an address: the client's
// address is personal data, and errors are logged.
var (
	errNilAllowlist = errors.New("the IPAllowlist is nil: make one with NewIPAllowlist")
	errNobody       = errors.New("the IPAllowlist accepts nobody, because it has no valid prefixes:" +
		" pass NewIPAllowlist or Set what IPRanges returns")
	errNotAllowed = errors.New("the client's address is not on the IPAllowlist:" +
		" if Mailtrap sent the request, update the list, or name your proxy in trustedProxies")
	errNotForwarded = errors.New("the trusted proxy sent no " + forwardedHeader + " header:" +
		" configure it to add the client's address there")
	errOnlyProxies = errors.New("all addresses in " + forwardedHeader + " are trusted proxies:" +
		" let the outermost proxy add its client's address, and trust no more than your proxies")
	errPeer = errors.New("the RemoteAddr of the request is not an IP address:" +
		" behind a Unix socket, let middleware set it to a loopback address, and trust that")
	errPeerZone = errors.New("the RemoteAddr of the request has a zone, so it is valid on one link only:" +
		" let the proxy connect to an address without a zone")
	errHop = errors.New("an entry in " + forwardedHeader + " is not an IP address, or has a zone:" +
		" configure the trusted proxies to add the address that called them")
)

// NewIPAllowlist returns a list that accepts the addresses in allowed. Most
// programs pass what [IPRanges] returns.
//
// If a reverse proxy or load balancer stands in front of the server, pass the
// addresses that it connects from in trustedProxies. For a proxy on the same
// machine, that is 127.0.0.1/32. Pass no address that others can connect from:
// the list believes what a trusted proxy says about the client. Without
// trustedProxies the list ignores X-Forwarded-For.
//
// If allowed is empty or has an invalid prefix, the list accepts nobody until
// [IPAllowlist.Set] succeeds. If trustedProxies has an invalid prefix, the list
// accepts nobody, and you must make a new one. IPv4 written as IPv6, such as
// ::ffff:192.0.2.0/120, is read as IPv4. It is invalid if shorter than /96.
func NewIPAllowlist(allowed []netip.Prefix, trustedProxies ...netip.Prefix) *IPAllowlist {
	l := new(IPAllowlist)
	var err error
	if l.proxies, err = canonicalAll(trustedProxies); err != nil {
		l.badProxies = fmt.Errorf("the trusted proxies are invalid: correct them and make a new IPAllowlist: %w", err)
	}
	// If Set fails, the list stays empty and refuses with errNobody.
	_ = l.Set(allowed)
	return l
}

// Set replaces the allowed addresses, not the trusted proxies. If allowed is
// empty or has an invalid prefix, Set returns an error, and the old addresses
// stay. Set always fails if the trusted proxies are invalid.
func (l *IPAllowlist) Set(allowed []netip.Prefix) error {
	switch {
	case l == nil:
		return fmt.Errorf("mailtrapwebhook: %w", errNilAllowlist)
	case l.badProxies != nil:
		return fmt.Errorf("mailtrapwebhook: %w", l.badProxies)
	case len(allowed) == 0:
		return errors.New("mailtrapwebhook: the list of allowed prefixes is empty:" +
			" pass at least one; the old list stays")
	}
	own, err := canonicalAll(allowed)
	if err != nil {
		return fmt.Errorf("mailtrapwebhook: an allowed prefix is invalid: correct it; the old list stays: %w", err)
	}
	l.allowed.Store(&own)
	return nil
}

// canonicalAll copies prefixes in the form in which addresses are compared.
func canonicalAll(prefixes []netip.Prefix) ([]netip.Prefix, error) {
	all := make([]netip.Prefix, len(prefixes))
	for i, p := range prefixes {
		var err error
		if all[i], err = canonical(p); err != nil {
			return nil, fmt.Errorf("prefix %d of %d %w", i+1, len(prefixes), err)
		}
	}
	return all, nil
}

func (l *IPAllowlist) current() []netip.Prefix {
	if l == nil {
		return nil
	}
	if p := l.allowed.Load(); p != nil {
		return *p
	}
	return nil
}

// Contains reports whether the list accepts a. IPv4 written as IPv6 is read as
// IPv4. An address with a zone is never accepted.
func (l *IPAllowlist) Contains(a netip.Addr) bool {
	return containsAddr(l.current(), a)
}

func containsAddr(prefixes []netip.Prefix, a netip.Addr) bool {
	// Unmap drops the zone, so it must be checked before.
	if a.Zone() != "" {
		return false
	}
	a = a.Unmap()
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// ClientAddr returns the address of the client that sent r, whether or not the
// list accepts it. It never returns IPv4 written as IPv6.
//
// If r.RemoteAddr is not a trusted proxy, it is the client. Otherwise ClientAddr
// reads X-Forwarded-For from the right. The first address that is not a trusted
// proxy is the client. Addresses to the left of it are not read, because anyone
// can write them. If all are trusted, the leftmost is the client. If there is no
// header, r.RemoteAddr is.
//
// An address may have a port. An address that cannot be read, has a zone or is
// missing is an error. Errors hold no addresses.
func (l *IPAllowlist) ClientAddr(r *http.Request) (netip.Addr, error) {
	a, err := l.clientAddr(r)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("mailtrapwebhook: %w", err)
	}
	return a, nil
}

func (l *IPAllowlist) clientAddr(r *http.Request) (netip.Addr, error) {
	switch {
	case l == nil:
		return netip.Addr{}, errNilAllowlist
	case l.badProxies != nil:
		return netip.Addr{}, l.badProxies
	}
	client, ok := parseHop(r.RemoteAddr)
	switch {
	case !ok && strings.Contains(r.RemoteAddr, "%"):
		return netip.Addr{}, errPeerZone
	case !ok:
		return netip.Addr{}, errPeer
	case !containsAddr(l.proxies, client):
		// Anyone can send X-Forwarded-For; only a trusted proxy's counts.
		return client, nil
	}
	for hop := range hopsFromRight(r.Header.Values(forwardedHeader)) {
		if client, ok = parseHop(hop); !ok {
			// Skipping it would let a client hide behind an entry of its own making.
			return netip.Addr{}, errHop
		}
		if !containsAddr(l.proxies, client) {
			break
		}
	}
	return client, nil
}

// hopsFromRight yields the entries of a comma-separated header from the last to
// the first.
func hopsFromRight(lines []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range slices.Backward(lines) {
			// Splitting the line would cost memory for the entries that are never
			// reached. An attacker can send a megabyte of them.
			for comma := len(line); comma >= 0; {
				line = line[:comma]
				comma = strings.LastIndexByte(line, ',')
				if !yield(strings.Trim(line[comma+1:], " \t")) {
					return
				}
			}
		}
	}
}

// maxHopBytes is the length of the longest address. Longer entries are refused
// before netip copies them into its error.
const maxHopBytes = len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535")

// parseHop reads 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1] or
// [2001:db8::1]:80. It refuses a zone, which has a meaning on one machine only.
func parseHop(s string) (a netip.Addr, ok bool) {
	var err error
	switch bracketed := strings.HasPrefix(s, "["); {
	case len(s) > maxHopBytes || strings.Contains(s, "%"):
		return netip.Addr{}, false
	case bracketed && strings.HasSuffix(s, "]"):
		// Brackets are for IPv6 only.
		if a, err = netip.ParseAddr(s[1 : len(s)-1]); a.Is4() {
			return netip.Addr{}, false
		}
	case bracketed, strings.Count(s, ":") == 1:
		var ap netip.AddrPort
		ap, err = netip.ParseAddrPort(s)
		a = ap.Addr()
	default:
		a, err = netip.ParseAddr(s)
	}
	return a.Unmap(), err == nil
}

// Guard returns a [Guard] that refuses requests if the list does not accept
// their [IPAllowlist.ClientAddr]. Its errors wrap [ErrForbidden], say why, and
// hold no addresses.
func (l *IPAllowlist) Guard() Guard {
	// Set cannot repair these two, so that Validate may report them at start.
	switch {
	case l == nil:
		return misconfigured(ErrForbidden, errNilAllowlist.Error())
	case l.badProxies != nil:
		return misconfigured(ErrForbidden, l.badProxies.Error())
	}
	return func(r *http.Request) error {
		if err := l.check(r); err != nil {
			return fmt.Errorf("%w: %w", ErrForbidden, err)
		}
		return nil
	}
}

func (l *IPAllowlist) check(r *http.Request) error {
	allowed := l.current()
	if allowed == nil {
		return errNobody
	}
	a, err := l.clientAddr(r)
	if err != nil || containsAddr(allowed, a) {
		return err
	}
	if !containsAddr(l.proxies, a) {
		return errNotAllowed
	}
	// The client is told from its proxies only if one of them names it.
	if len(r.Header.Values(forwardedHeader)) == 0 {
		return errNotForwarded
	}
	return errOnlyProxies
}
