package mailtrapwebhook

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// The page "Static IPs for sending & webhooks" on https://docs.mailtrap.io lists
// the ranges below and names the machine-readable list.
const ipRangesURL = "https://mailtrap.io/ip-ranges.json"

// maxIPRangesBytes limits the machine-readable list, which should hold a handful
// of prefixes.
const maxIPRangesBytes = 1 << 20

// The shortest prefixes that ParseIPRanges accepts. Mailtrap's own are /24. A
// much shorter one is a mistake or an attack.
const (
	minBits4 = 16
	minBits6 = 32
)

// mapped4 holds the IPv4 addresses that are written as IPv6: ::ffff:192.0.2.1.
var mapped4 = netip.MustParsePrefix("::ffff:0:0/96")

// notPublic are the ranges that netip takes for public.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("100.64.0.0/10"), // shared by a provider's customers, or a cloud's containers: RFC 6598
	netip.MustParsePrefix("64:ff9b::/96"),  // all of IPv4, behind a translator: RFC 6052
	netip.MustParsePrefix("fec0::/10"),     // site-local, the private addresses of before
}

// IPRanges returns the ranges that Mailtrap sends webhooks and mail from:
// 45.158.83.0/24 and 5.181.200.0/24. Allow these. Mailtrap: "whitelist the full
// /24 range rather than individual addresses".
//
// There are no IPv6 ranges: Mailtrap names those on request only.
func IPRanges() []netip.Prefix {
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{45, 158, 83, 0}), 24),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{5, 181, 200, 0}), 24),
	}
}

// WebhookIPs returns the two addresses that webhooks come from today:
// 45.158.83.129 and 45.158.83.130. Mailtrap may change single addresses, and a
// list of them would then refuse every webhook. To allow addresses, use
// [IPRanges].
func WebhookIPs() []netip.Addr {
	return []netip.Addr{
		netip.AddrFrom4([4]byte{45, 158, 83, 129}),
		netip.AddrFrom4([4]byte{45, 158, 83, 130}),
	}
}

// FetchIPRanges gets Mailtrap's machine-readable list from
// https://mailtrap.io/ip-ranges.json and returns what [ParseIPRanges] reads in
// it. If client is nil, FetchIPRanges uses [http.DefaultClient], which has no
// timeout: give ctx a deadline.
//
// Fetch in the background, not while a request waits. If there is an error, keep
// the old list:
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
// FetchIPRanges follows redirects to https only. If client has a CheckRedirect
// function, that function decides instead.
func FetchIPRanges(ctx context.Context, client *http.Client) ([]netip.Prefix, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ipRangesURL, nil)
	if err != nil {
		return nil, fmt.Errorf("mailtrapwebhook: cannot request the IP ranges: %w", err)
	}
	resp, err := httpsOnly(client).Do(req)
	if err != nil {
		return nil, fmt.Errorf("mailtrapwebhook: cannot get the IP ranges: keep the old ones and try later: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("mailtrapwebhook: cannot get the IP ranges: keep the old ones and try later:"+
			" %s answered %d, not 200", ipRangesURL, resp.StatusCode)
	}
	// One byte more than allowed lets ParseIPRanges see that there are too many.
	doc, err := io.ReadAll(io.LimitReader(resp.Body, maxIPRangesBytes+1))
	if err != nil {
		return nil, fmt.Errorf("mailtrapwebhook: cannot read the IP ranges: keep the old ones and try later: %w", err)
	}
	return ParseIPRanges(doc)
}

// httpsOnly returns a copy of client that refuses redirects to http. Over plain
// http anyone between the two ends could write the list.
func httpsOnly(client *http.Client) *http.Client {
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
		case len(via) >= 10:
			// The limit of net/http, which CheckRedirect switches off.
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}
	return &own
}

// ParseIPRanges reads prefixes from a JSON document such as
// https://mailtrap.io/ip-ranges.json. Mailtrap does not document its structure,
// so ParseIPRanges takes every string in it that is an IP prefix or an IP
// address, wherever it stands. It ignores other strings and object keys. It
// returns the prefixes masked, sorted and without duplicates.
//
// One bad entry refuses the whole document, because an allow-list must never
// widen by accident. These entries are bad:
//
//   - a prefix shorter than /16 (IPv4) or /32 (IPv6)
//   - a prefix or an address that is private, shared (100.64.0.0/10), loopback,
//     link-local, site-local, multicast, unspecified, IPv4 behind a translator
//     (64:ff9b::/96), 0.0.0.0/8, or 224.0.0.0 and above
//   - an address with a zone
//   - an IPv6 prefix that includes all IPv4 addresses written as IPv6
//
// IPv4 written as IPv6 is read as IPv4. ParseIPRanges also refuses a document
// that is over 1 MiB, that is not JSON, or that has no prefix or address.
func ParseIPRanges(doc []byte) ([]netip.Prefix, error) {
	if len(doc) > maxIPRangesBytes {
		return nil, errors.New("mailtrapwebhook: the list of IP ranges is over 1 MiB: check where it comes from")
	}
	if !json.Valid(doc) {
		return nil, errors.New("mailtrapwebhook: the list of IP ranges is not JSON: check whether it is an error page")
	}
	ranges, err := allRanges(doc)
	if err != nil {
		return nil, fmt.Errorf("mailtrapwebhook: the list of IP ranges is refused: check where it comes from: %w", err)
	}
	if len(ranges) == 0 {
		return nil, errors.New("mailtrapwebhook: the list of IP ranges has no prefix or address:" +
			" check where it comes from")
	}
	slices.SortFunc(ranges, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(ranges), nil
}

func allRanges(doc []byte) (ranges []netip.Prefix, err error) {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber() // 1e999 is valid JSON, but no float64
	err = eachString(d, func(s string) error {
		p, ok, err := parseRange(s)
		if err != nil {
			// The limit keeps a megabyte of text out of the log.
			return fmt.Errorf("%.64q %w", s, err)
		}
		if ok {
			ranges = append(ranges, p)
		}
		return nil
	})
	return ranges, err
}

// eachString reads one value from d and calls visit for each string in it that
// is not an object key, until visit returns an error.
func eachString(d *json.Decoder, visit func(string) error) error {
	// Unmarshalling into a map would keep one of two equal keys. A bad entry could
	// then hide behind a good one.
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
			// json.Valid has refused depths over 10,000, so the stack is bounded.
			if err := eachString(d, visit); err != nil {
				return err
			}
		}
		_, err = d.Token() // the closing bracket
	}
	return err
}

// parseRange reads s as a prefix, or as an address, which is a prefix of one. If
// s is neither, ok is false.
func parseRange(s string) (p netip.Prefix, ok bool, err error) {
	p, err = netip.ParsePrefix(s)
	if err != nil {
		// netip accepts no zone in a prefix or after IPv4. Such an entry is meant as
		// an address, so it is bad and not just another string.
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

// publicRange returns p in canonical form, or an error if an allow-list must not
// take it unseen.
func publicRange(p netip.Prefix) (netip.Prefix, error) {
	// This comes before canonical, which would mask ::fffe:0:0/95 to ::/95.
	if p.Bits() < mapped4.Bits() && p.Overlaps(mapped4) {
		return netip.Prefix{}, errors.New("includes all of IPv4")
	}
	p, err := canonical(p)
	if err != nil {
		return netip.Prefix{}, err
	}
	minBits := minBits6
	if p.Addr().Is4() {
		minBits = minBits4
	}
	// A prefix of at least minBits lies either inside or outside each special
	// range, so its first address decides.
	switch a := p.Addr(); {
	case p.Bits() < minBits:
		return netip.Prefix{}, fmt.Errorf("is wider than /%d", minBits)
	case slices.ContainsFunc(notPublic, p.Overlaps), a.IsPrivate(), !a.IsGlobalUnicast(),
		a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 224):
		return netip.Prefix{}, errors.New("is not of the public internet")
	}
	return p, nil
}

// canonical returns p masked, with IPv4 written as IPv6 turned into IPv4.
// Addresses are compared in this form.
func canonical(p netip.Prefix) (netip.Prefix, error) {
	switch {
	case !p.IsValid():
		return netip.Prefix{}, errors.New("is not a valid prefix")
	case !p.Addr().Is4In6():
		return p.Masked(), nil
	case p.Bits() < mapped4.Bits():
		return netip.Prefix{}, errors.New("is IPv4 written as IPv6, but shorter than /96")
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped4.Bits()).Masked(), nil
}
