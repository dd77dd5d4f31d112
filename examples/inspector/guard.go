package main

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// A guard keeps the page and the API to the person at this machine. They show
// everybody's mail, and other pages in the same browser can send requests here.
type guard struct {
	host  string // of -addr
	notes *printer
}

func newGuard(addr string, notes *printer) *guard {
	host, _, _ := net.SplitHostPort(addr)
	return &guard{strings.ToLower(host), notes}
}

// crossOrigin tells the requests that a page of another origin makes.
var crossOrigin = http.NewCrossOriginProtection()

// contentPolicy lets the page load its own files and talk to its own API, and
// nothing else. What the page shows is other people's text.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';" +
	" img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// protect returns a handler that refuses what next must not see.
func (g *guard) protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limitTime(w, writeTimeout)
		header := w.Header()
		header.Set("Content-Security-Policy", contentPolicy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Cache-Control", "no-store")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		if err := g.check(r); err != nil {
			writeError(w, err)
			if r.Method == http.MethodPost {
				g.notes.linef("inspector: refused a POST: %v; deliveries go to %s", err, webhookPath)
			}
			return
		}
		next.ServeHTTP(w, r)
	})
}

// limitTime ends the request when its time is up. Nobody can then hold a
// connection by reading the answer slowly, or by sending a body slowly that
// nobody reads. The timeouts of the server would end streams.
func limitTime(w http.ResponseWriter, t time.Duration) {
	controller, deadline := http.NewResponseController(w), time.Now().Add(t)
	_ = controller.SetReadDeadline(deadline) // a run's request has no connection
	_ = controller.SetWriteDeadline(deadline)
}

// proxyHeaders are added by tunnels and proxies.
var proxyHeaders = []string{
	"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip",
	"Forwarded", "Via", "Cf-Connecting-Ip", "True-Client-Ip", "Fly-Client-Ip",
}

func (g *guard) check(r *http.Request) error {
	if !g.isOwnHost(r.Host) {
		return &refusal{http.StatusForbidden, "the Host is not this machine:" +
			" open the page at localhost or an IP address, and use a tunnel for " + webhookPath + " alone"}
	}
	for _, name := range proxyHeaders {
		if r.Header[name] != nil {
			return &refusal{http.StatusForbidden, "the request came through a tunnel or proxy (" + name +
				"), which would show the page to others: open it on this machine"}
		}
	}
	if strings.HasPrefix(r.URL.Path, "/api/") {
		return checkOrigin(r)
	}
	return nil
}

// isOwnHost reports whether a Host is localhost, an IP address or that of -addr.
// A page of another name that resolves to this machine would otherwise count as
// the same origin.
func (g *guard) isOwnHost(hostPort string) bool {
	host := hostPort
	if h, _, err := net.SplitHostPort(hostPort); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if host == "localhost" || host != "" && host == g.host {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

// checkOrigin refuses the requests of other pages. CrossOriginProtection lets
// every GET pass.
func checkOrigin(r *http.Request) error {
	foreign := &refusal{http.StatusForbidden,
		"the request is another page's: use the API from the inspector's page or a script"}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return foreign
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		if u, err := url.Parse(origin); err != nil || u.Host != r.Host {
			return foreign
		}
	}
	if err := crossOrigin.Check(r); err != nil {
		return foreign
	}
	if r.Method == http.MethodPost && !isJSON(r.Header.Get("Content-Type")) {
		// A form of another page cannot send this type.
		return &refusal{http.StatusUnsupportedMediaType, "the Content-Type must be application/json"}
	}
	return nil
}

func isJSON(contentType string) bool {
	mediaType, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), "application/json")
}
