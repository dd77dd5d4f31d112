package mailtrapwebhook

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
)

// The addresses are those of Mailtrap's page "Static IPs for sending & webhooks" on https://docs.mailtrap.io, which
// also names the machine-readable list.
const ipRangesURL = "https://mailtrap.io/ip-ranges.json"

// maxIPRangesBytes bounds the machine-readable list, which is expected to hold a handful of prefixes.
const maxIPRangesBytes = 1 << 20

// The widest prefixes that ParseIPRanges takes. Mailtrap's own are /24s; anything near the size of the internet is a
// mistake or an attack.
const (
	minBits4 = 16
	minBits6 = 32
)

// mapped4 is where IPv6 holds the IPv4 addresses, as in ::ffff:192.0.2.1.
var mapped4 = netip.MustParsePrefix("::ffff:0:0/96")

// IPRanges returns the ranges that Mailtrap sends webhooks and mail from: 45.158.83.0/24 and 5.181.200.0/24. These are
// the ones to allow. Mailtrap: "whitelist the full /24 range rather than individual addresses".
//
// There are no IPv6 ranges among them, because Mailtrap gives those out on request only.
func IPRanges() []netip.Prefix {
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{45, 158, 83, 0}), 24),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{5, 181, 200, 0}), 24),
	}
}

// WebhookIPs returns the two addresses that webhooks come from today: 45.158.83.129 and 45.158.83.130. Mailtrap says
// that single addresses may change, so an allow-list made of them may one day refuse every webhook; [IPRanges] has
// the ranges that they stay in.
func WebhookIPs() []netip.Addr {
	return []netip.Addr{
		netip.AddrFrom4([4]byte{45, 158, 83, 129}),
		netip.AddrFrom4([4]byte{45, 158, 83, 130}),
	}
}

// FetchIPRanges gets Mailtrap's machine-readable list, https://mailtrap.io/ip-ranges.json, and returns what
// [ParseIPRanges] reads from it. A nil client means [http.DefaultClient], which has no time limit: give ctx a deadline.
//
// Fetch in the background, never while a request waits, and keep the old list when there is an error:
//
//	for range time.Tick(24 * time.Hour) {
//		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
//		ranges, err := mailtrapwebhook.FetchIPRanges(ctx, nil)
//		cancel()
//		if err == nil {
//			err = allowlist.Set(ranges)
//		}
//		if err != nil {
//			log.Print(err) // the old list stays
//		}
//	}
//
// A redirect to anything but https is refused, unless the client has a CheckRedirect, which then decides alone.
func FetchIPRanges(ctx context.Context, client *http.Client) ([]netip.Prefix, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ipRangesURL, nil)
	if err != nil {
		return nil, fmt.Errorf("mailtrapwebhook: cannot ask for the IP ranges: %w", err)
	}
	resp, err := refusingDowngrades(client).Do(req)
	if err != nil {
		return nil, fmt.Errorf("mailtrapwebhook: cannot get the IP ranges: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("mailtrapwebhook: cannot get the IP ranges: %s answered %d, want 200",
			ipRangesURL, resp.StatusCode)
	}
	doc, err := io.ReadAll(io.LimitReader(resp.Body, maxIPRangesBytes+1)) // one more, for ParseIPRanges to refuse
	if err != nil {
		return nil, fmt.Errorf("mailtrapwebhook: cannot read the IP ranges: %w", err)
	}
	return ParseIPRanges(doc)
}

// refusingDowngrades returns client, or a copy of it that follows redirects to https only: over plain http anyone on
// the way could write the list.
func refusingDowngrades(client *http.Client) *http.Client {
	if client == nil {
		client = http.DefaultClient
	}
	if client.CheckRedirect != nil {
		return client
	}
	own := *client
	own.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		switch {
		case req.URL.Scheme != "https":
			return errors.New("refused a redirect away from https")
		case len(via) >= 10: // as net/http has it where CheckRedirect is nil
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}
	return &own
}

// ParseIPRanges reads the prefixes from a document such as https://mailtrap.io/ip-ranges.json. Mailtrap does not
// document its shape, so none is assumed: every string value in the JSON, wherever it stands, that is an IP prefix or
// address counts, and no other string does. Object keys are not values. The prefixes are masked, sorted, and each
// there once.
//
// An allow-list must never widen by accident, so one bad entry refuses the whole document. Bad is a prefix shorter than
// /16 (IPv4) or /32 (IPv6), one that is not of the public internet (private, loopback, link-local, unspecified,
// 0.0.0.0/8, multicast, 224.0.0.0 and above), and an address with a zone. IPv4 written as IPv6 is judged as IPv4; a prefix that takes in
// more than the IPv4 addresses in IPv6 is bad. So is a document over 1 MiB, one that is not JSON, and one with no
// prefix in it.
func ParseIPRanges(doc []byte) ([]netip.Prefix, error) {
	if len(doc) > maxIPRangesBytes {
		return nil, errors.New("mailtrapwebhook: the IP ranges are over 1 MiB: is this the right document?")
	}
	if !json.Valid(doc) {
		return nil, errors.New("mailtrapwebhook: the IP ranges are not JSON: is this an error page?")
	}
	var ranges []netip.Prefix
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber() // 1e999 is JSON, but no float64
	err := eachString(d, func(s string) error {
		p, ok, err := parseRange(s)
		if err != nil {
			return fmt.Errorf("they hold %.64q, which %w", s, err)
		}
		if ok {
			ranges = append(ranges, p)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("mailtrapwebhook: all of the IP ranges are refused: %w", err)
	}
	if len(ranges) == 0 {
		return nil, errors.New("mailtrapwebhook: the IP ranges hold no prefix or address: is this the right document?")
	}
	slices.SortFunc(ranges, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(ranges), nil
}

// eachString reads one value from d and visits the strings in it that are not object keys, until one is an error.
//
// It reads tokens rather than unmarshalling into a map, which would keep only the last of two equal keys and so hide an
// entry from judgement. Its depth is bounded by what json.Valid lets pass.
func eachString(d *json.Decoder, visit func(string) error) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	switch t := t.(type) {
	case string:
		return visit(t)
	case json.Delim:
		for d.More() {
			if t == '{' {
				if _, err := d.Token(); err != nil { // the key
					return err
				}
			}
			if err := eachString(d, visit); err != nil {
				return err
			}
		}
		_, err = d.Token() // the closing bracket
	}
	return err
}

// parseRange reads s as a prefix or an address, which is a prefix of one. Any other string is neither ok nor an error.
func parseRange(s string) (p netip.Prefix, ok bool, err error) {
	p, err = netip.ParsePrefix(s)
	if err != nil {
		// netip reads no zone in a prefix, and none with an IPv4 address.
		host, _, zoned := strings.Cut(s, "%")
		a, err := netip.ParseAddr(host)
		if err != nil {
			return netip.Prefix{}, false, nil
		}
		if zoned {
			return netip.Prefix{}, false, errors.New("has a zone")
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	p, err = publicRange(p)
	return p, err == nil, err
}

// publicRange returns p in canonical form, or what makes it unfit for an allow-list that nobody looked at.
func publicRange(p netip.Prefix) (netip.Prefix, error) {
	if p.Bits() < mapped4.Bits() && p.Overlaps(mapped4) {
		return netip.Prefix{}, errors.New("takes in all of IPv4")
	}
	p, err := canonical(p)
	if err != nil {
		return netip.Prefix{}, err
	}
	minBits := minBits6
	if p.Addr().Is4() {
		minBits = minBits4
	}
	// With at least minBits, a prefix lies in one of these ranges or beside it, and its first address tells which.
	switch a := p.Addr(); {
	case p.Bits() < minBits:
		return netip.Prefix{}, fmt.Errorf("is wider than /%d", minBits)
	case a.IsPrivate(), !a.IsGlobalUnicast(), a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 224):
		return netip.Prefix{}, errors.New("is not of the public internet")
	}
	return p, nil
}

// canonical returns p masked, and as IPv4 if it is IPv4 written as IPv6: addresses are compared in that form.
func canonical(p netip.Prefix) (netip.Prefix, error) {
	switch {
	case !p.IsValid():
		return netip.Prefix{}, errors.New("is no prefix")
	case !p.Addr().Is4In6():
		return p.Masked(), nil
	case p.Bits() < mapped4.Bits():
		return netip.Prefix{}, errors.New("takes in more than IPv4")
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped4.Bits()).Masked(), nil
}

func canonicalAll(prefixes []netip.Prefix) ([]netip.Prefix, error) {
	all := make([]netip.Prefix, len(prefixes))
	for i, p := range prefixes {
		var err error
		if all[i], err = canonical(p); err != nil {
			return nil, fmt.Errorf("prefix %d of the list %w", i, err)
		}
	}
	return all, nil
}

// An IPAllowlist lets requests through by the address that they come from. Make one with [NewIPAllowlist] and put its
// [IPAllowlist.Guard] among the guards of a [Handler].
//
// It is a second lock, not the first: everyone's webhooks leave Mailtrap from the same addresses, so an address tells
// that a request is from Mailtrap, and only the signature that it is from one's own account.
//
// It judges r.RemoteAddr as the server set it. Put no middleware before it that writes there what a client may have
// claimed in a header.
//
// The zero IPAllowlist allows nobody, and a nil one refuses whatever it is asked. An IPAllowlist is safe for concurrent
// use.
type IPAllowlist struct {
	allowed    atomic.Pointer[[]netip.Prefix]
	proxies    []netip.Prefix
	badProxies error // why the trusted proxies cannot be used; never mended
}

// What an IPAllowlist refuses a request for. These texts hold no address: a client's is personal data, and errors are
// logged.
var (
	errNilAllowlist = errors.New("the allow-list is nil: make one with NewIPAllowlist")
	errNobody       = errors.New("the allow-list allows nobody:" +
		" it was made of an empty list, or one with an invalid prefix; give Set a valid one")
	errNotAllowed = errors.New("the client's address is not on the allow-list:" +
		" the request is not from Mailtrap, its ranges have changed, or a proxy in front is not among the trusted ones")
	errPeer = errors.New("the peer's address is not an IP address without a zone:" +
		" behind a Unix socket, have a middleware set RemoteAddr to a loopback address, and trust that")
	errHop = errors.New("an address in X-Forwarded-For cannot be read:" +
		" a trusted proxy must add the IP address of whoever it was called by")
)

// NewIPAllowlist returns a list that allows the addresses in allowed, which is most often what [IPRanges] returns.
//
// Where a reverse proxy or load balancer stands in front, trustedProxies are the addresses that it calls from, such as
// 127.0.0.1/32 for one on the same machine. Name no address that anyone else can call from: a trusted proxy is believed
// whatever it says about the client. Without trustedProxies, X-Forwarded-For is never looked at.
//
// With an invalid prefix in allowed the list refuses everybody until [IPAllowlist.Set] gives it a valid one. With one
// in trustedProxies it refuses everybody for ever, because these cannot be replaced. IPv4 written as IPv6, as
// ::ffff:192.0.2.0/120, is read as IPv4, and invalid if it is shorter than /96.
func NewIPAllowlist(allowed []netip.Prefix, trustedProxies ...netip.Prefix) *IPAllowlist {
	l := new(IPAllowlist)
	l.proxies, l.badProxies = canonicalAll(trustedProxies)
	_ = l.Set(allowed) // refused: the list stays as the zero one, which allows nobody
	return l
}

// Set replaces the allowed addresses; the trusted proxies stay. It returns an error, and the old ones stay as well, if
// allowed is empty or has an invalid prefix in it, or if the trusted proxies have, in which case only a new list helps.
func (l *IPAllowlist) Set(allowed []netip.Prefix) error {
	switch {
	case l == nil:
		return fmt.Errorf("mailtrapwebhook: %w", errNilAllowlist)
	case l.badProxies != nil:
		return fmt.Errorf("mailtrapwebhook: the trusted proxies are invalid, make a new list: %w", l.badProxies)
	case len(allowed) == 0:
		return errors.New("mailtrapwebhook: an empty list would allow nobody: the old one stays")
	}
	own, err := canonicalAll(allowed)
	if err != nil {
		return fmt.Errorf("mailtrapwebhook: the list is invalid, the old one stays: %w", err)
	}
	l.allowed.Store(&own)
	return nil
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

// Contains reports whether a is allowed. IPv4 written as IPv6 is read as IPv4. An address with a zone is never allowed.
func (l *IPAllowlist) Contains(a netip.Addr) bool {
	return within(l.current(), a)
}

func within(prefixes []netip.Prefix, a netip.Addr) bool {
	if a.Zone() != "" { // Unmap would drop it
		return false
	}
	a = a.Unmap()
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// ClientAddr returns the address that r comes from, allowed or not; IPv4 is never written as IPv6.
//
// That is the peer, r.RemoteAddr, unless it is a trusted proxy. Then it is the last address in X-Forwarded-For that is
// not a trusted proxy, or the first if all are, or the peer if there is no such header. What stands further left was
// written by someone whom nobody vouches for, and is not read.
//
// Addresses may have a port. One that cannot be read, has a zone or is missing is an error, which holds no address.
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
		return netip.Addr{}, fmt.Errorf("the trusted proxies are invalid: %w", l.badProxies)
	}
	client, ok := parseHop(r.RemoteAddr)
	if !ok {
		return netip.Addr{}, errPeer
	}
	if !within(l.proxies, client) {
		return client, nil
	}
	for hop := range hopsFromRight(r.Header.Values("X-Forwarded-For")) {
		if client, ok = parseHop(hop); !ok {
			return netip.Addr{}, errHop
		}
		if !within(l.proxies, client) {
			break
		}
	}
	return client, nil
}

// hopsFromRight yields the members of a comma-separated header from the last to the first. It does not split the
// header beforehand: the part that is never reached may be long, and is the attacker's.
func hopsFromRight(lines []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range slices.Backward(lines) {
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

// maxHopBytes is the length of the longest address: more is not worth the work of reading it.
const maxHopBytes = len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535")

// parseHop reads an address in any of the forms 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1] and
// [2001:db8::1]:80. A zone means something on one machine only, so an address with one is refused.
func parseHop(s string) (a netip.Addr, ok bool) {
	var err error
	switch bracketed := strings.HasPrefix(s, "["); {
	case len(s) > maxHopBytes || strings.Contains(s, "%"):
		return netip.Addr{}, false
	case bracketed && strings.HasSuffix(s, "]"):
		a, err = netip.ParseAddr(s[1 : len(s)-1])
		if a.Is4() { // brackets are IPv6's
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

// Guard returns a [Guard] that refuses requests whose [IPAllowlist.ClientAddr] is not allowed or cannot be told. Its
// errors wrap [ErrForbidden] and hold no address.
func (l *IPAllowlist) Guard() Guard {
	return func(r *http.Request) error {
		if err := l.check(r); err != nil {
			return fmt.Errorf("%w: %w", ErrForbidden, err)
		}
		return nil
	}
}

func (l *IPAllowlist) check(r *http.Request) error {
	a, err := l.clientAddr(r)
	switch {
	case err != nil:
		return err
	case l.current() == nil:
		return errNobody
	case !l.Contains(a):
		return errNotAllowed
	}
	return nil
}
