package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/adaptor"
	"github.com/gorilla/handlers"
	"github.com/gorilla/mux"
	"github.com/labstack/echo/v5"
	echomiddleware "github.com/labstack/echo/v5/middleware"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// The comments in each router's file name the middleware that may stand before
// the Handler. This test has the consequences.
func TestMiddlewareInFront(t *testing.T) {
	good := inJSON("delivery")
	lines := bodyOf(mailtrapwebhook.FormatJSONLines, "delivery")
	unknownLength := func(r *http.Request) { r.ContentLength = -1 }
	encodedAs := func(r *http.Request) {
		r.Header.Set("Content-Encoding", "gzip")
		replaceBody(r, zipped(good))
	}
	const read, encoded, tooLarge = "read or closed the body first", "encoded it again", "over the limit of a middleware"

	tests := []struct {
		name   string
		server func(webhook http.Handler) server
		body   []byte
		change change
		status int
		reason string // of the Handler; "" if it accepts or gets no request
	}{
		{"net/http decodes the body", behind(decode), good, asSent, 400, read},
		{"net/http encodes the body again", behind(reencode), good, asSent, 400, encoded},
		{"net/http's MaxBytesHandler", behind(maxBytes), good, unknownLength, 413, tooLarge},
		{"chi's RequestSize", inChi(chimiddleware.RequestSize(10)), good, unknownLength, 413, tooLarge},
		{"chi's AllowContentType", inChi(chimiddleware.AllowContentType("application/json")), lines, asSent, 415, ""},
		{"chi's Compress", inChi(chimiddleware.Compress(5)), good, asSent, 200, ""},
		{"gorilla's ContentTypeHandler", inGorilla(jsonOnly), lines, asSent, 415, ""},
		{"gorilla's CompressHandler", inGorilla(handlers.CompressHandler), good, asSent, 200, ""},
		{"gin's ShouldBindJSON", inGin(bindJSON), good, asSent, 400, read},
		{"gin's ShouldBindBodyWithJSON", inGin(bindBodyWithJSON), good, asSent, 400, read},
		{"echo's Bind", inEcho(bindEcho), good, asSent, 400, read},
		{"echo's BodyDump", inEcho(dump(1 << 20)), good, asSent, 200, ""},
		{"echo's BodyDump of a part", inEcho(dump(10)), good, asSent, 200, ""},
		{"echo's Decompress", inEcho(echomiddleware.Decompress()), good, encodedAs, 415, "Content-Encoding"},
		{"echo's BodyLimit", inEcho(echomiddleware.BodyLimit(10)), good, asSent, 413, ""},
		{"echo's BodyLimit, length unknown", inEcho(echomiddleware.BodyLimit(10)), good, unknownLength, 400, "broke off"},
		{"fiber's Bind", inFiber(bindFiber), good, asSent, 200, ""},
		{"fiber's SetBody", inFiber(setBody), good, asSent, 400, "a newline was added"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newInstance(t)
			var reason syncBuffer
			s.webhook.Observe = func(_ context.Context, r mailtrapwebhook.Report) {
				if r.Err != nil {
					_, _ = io.WriteString(&reason, r.Err.Error())
				}
			}
			s.serve(t, test.server(s.webhook))
			status, _ := s.send(t, webhookPath, test.body, test.change)
			require.Equal(t, test.status, status)
			require.Contains(t, reason.String(), test.reason)
			require.Equal(t, test.reason == "", reason.String() == "", reason.String())
			require.Equal(t, status == http.StatusOK, s.calledFor() == "delivery", s.calledFor())
		})
	}
}

func behind(front func(http.Handler) http.Handler) func(http.Handler) server {
	return func(webhook http.Handler) server { return &http.Server{Handler: front(webhook)} }
}

func decode(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var v any
		_ = json.NewDecoder(r.Body).Decode(&v)
		next.ServeHTTP(w, r)
	})
}

// reencode replaces the body with other bytes of the same meaning.
func reencode(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var v any
		_ = json.NewDecoder(r.Body).Decode(&v)
		body, _ := json.Marshal(v)
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

func maxBytes(next http.Handler) http.Handler { return http.MaxBytesHandler(next, 10) }

func jsonOnly(next http.Handler) http.Handler {
	return handlers.ContentTypeHandler(next, "application/json")
}

func inChi(front func(http.Handler) http.Handler) func(http.Handler) server {
	return func(webhook http.Handler) server {
		router := chi.NewRouter()
		router.Use(front)
		router.Method(http.MethodPost, webhookPath, webhook)
		return &http.Server{Handler: router}
	}
}

func inGorilla(front mux.MiddlewareFunc) func(http.Handler) server {
	return func(webhook http.Handler) server {
		router := mux.NewRouter()
		router.Use(front)
		router.Handle(webhookPath, webhook)
		return &http.Server{Handler: router}
	}
}

func inGin(front gin.HandlerFunc) func(http.Handler) server {
	return func(webhook http.Handler) server {
		gin.SetMode(gin.ReleaseMode)
		router := gin.New()
		router.POST(webhookPath, front, gin.WrapH(webhook))
		return &http.Server{Handler: router}
	}
}

func bindJSON(c *gin.Context)         { _ = c.ShouldBindJSON(new(any)) }
func bindBodyWithJSON(c *gin.Context) { _ = c.ShouldBindBodyWithJSON(new(any)) }

func inEcho(front echo.MiddlewareFunc) func(http.Handler) server {
	return func(webhook http.Handler) server {
		router := echo.New()
		router.POST(webhookPath, echo.WrapHandler(webhook), front)
		return &http.Server{Handler: router}
	}
}

func bindEcho(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c *echo.Context) error {
		_ = c.Bind(new(any))
		return next(c)
	}
}

func dump(limit int64) echo.MiddlewareFunc {
	return echomiddleware.BodyDumpWithConfig(echomiddleware.BodyDumpConfig{
		MaxRequestBytes: limit,
		Handler:         func(*echo.Context, []byte, []byte, error) {},
	})
}

func inFiber(front fiber.Handler) func(http.Handler) server {
	return func(webhook http.Handler) server {
		app := fiber.New()
		app.Post(webhookPath, front, adaptor.HTTPHandler(webhook))
		return fiberServer{app}
	}
}

func bindFiber(c fiber.Ctx) error {
	if err := c.Bind().JSON(new(any)); err != nil {
		return err
	}
	return c.Next()
}

func setBody(c fiber.Ctx) error {
	c.Request().SetBody(append(c.BodyRaw(), '\n'))
	return c.Next()
}

func TestGinKeepsTheBytesThatShouldBindBodyWithRead(t *testing.T) {
	s := newInstance(t)
	router := gin.New()
	router.POST(verifiedPath, bindBodyWithJSON, func(c *gin.Context) {
		events, err := s.verifier.Parse(c.MustGet(gin.BodyBytesKey).([]byte), c.GetHeader(mailtrapwebhook.SignatureHeader))
		if err != nil || s.onEvent(c, events[0]) != nil {
			c.Status(http.StatusBadRequest)
		}
	})
	s.serve(t, &http.Server{Handler: router})
	status, _ := s.send(t, verifiedPath, inJSON("delivery"), asSent)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "delivery", s.calledFor())
}

// Middleware that writes RemoteAddr lets any client claim an allowed address.
func TestProxyHeadersOpenAnAllowlist(t *testing.T) {
	claim := func(r *http.Request) { r.Header.Set("X-Real-Ip", "203.0.113.9") }
	none := func(next http.Handler) http.Handler { return next }

	for status, front := range map[int]mux.MiddlewareFunc{403: none, 200: handlers.ProxyHeaders} {
		s := newInstance(t)
		allowed := mailtrapwebhook.NewIPAllowlist([]netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")})
		s.webhook.Guards = []mailtrapwebhook.Guard{allowed.Guard()}
		s.serve(t, inGorilla(front)(s.webhook))
		got, _ := s.send(t, webhookPath, inJSON("delivery"), claim)
		require.Equal(t, status, got)
	}
}

// A callback that overruns must not have the context of fasthttp's next
// request.
func TestFiberCallbackOverrunsWithItsOwnContext(t *testing.T) {
	s := newInstance(t)
	overrun, next, seen := make(chan struct{}), make(chan struct{}), make(chan any)
	s.act = func(ctx context.Context, ev mailtrapwebhook.Event) error {
		if ev.Name() == "delivery" {
			<-overrun
			seen <- ctx.Value("request")
			return nil
		}
		close(overrun)
		<-next // keeps this request open while the other callback looks
		return nil
	}
	s.webhook.EventTimeout = time.Millisecond
	app := fiber.New()
	var requests atomic.Int32
	app.Use(func(c fiber.Ctx) error {
		c.Locals("request", strconv.Itoa(int(requests.Add(1))))
		return c.Next()
	})
	app.Use("/", newFiber(s.site))
	s.serve(t, fiberServer{app})

	status, _ := s.send(t, webhookPath, inJSON("delivery"), asSent)
	require.Equal(t, http.StatusInternalServerError, status)
	go func() {
		if resp, err := s.client.Do(s.request(webhookPath, inJSON("open"))); err == nil {
			resp.Body.Close()
		}
	}()
	require.Nil(t, <-seen, "the callback sees the values of another request")
	close(next)
}
