package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/adaptor"
	"github.com/gofiber/fiber/v3/middleware/logger"
	recoverer "github.com/gofiber/fiber/v3/middleware/recover"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// newFiber returns a fiber app with the routes. Its requests are those of
// fasthttp, which reads a body whole before any handler runs. Fasthttp reuses
// the memory for other requests.
//
// BodyLimit, times the number of connections, therefore bounds the memory of
// bodies: MaxBodyBytes and MaxInFlightBytes come too late. ReadTimeout cuts off
// a slow body. Bind does no harm, because the body can be read again. Do not
// call SetBody before the two routes.
func newFiber(site *site) *fiber.App {
	app := fiber.New(fiber.Config{
		BodyLimit:    4 << 20, // many times what Mailtrap sends; a larger body is answered 413
		ReadTimeout:  readTimeout,
		WriteTimeout: writeTimeout,
		IdleTimeout:  idleTimeout,
		ErrorHandler: answerError,
	})
	// Without the recoverer a panic ends the program: fasthttp recovers
	// nothing.
	app.Use(logger.New(), recoverer.New(recoverer.Config{EnableStackTrace: true}))

	app.Post(webhookPath, adaptor.HTTPHandler(detached(site.webhook)))
	app.Post(verifiedPath, oneSignature, func(c fiber.Ctx) error {
		// Events own their text, so the reuse of these bytes does no harm. Call
		// BodyRaw: Body inflates the bytes before they are verified.
		body := c.BodyRaw()
		err := site.verifier.Verify(body, c.Get(mailtrapwebhook.SignatureHeader))
		if err == nil {
			// Pass c.Context: c and c.RequestCtx serve another request later.
			err = handleBody(c.Context(), body, site.onEvent)
		}
		if err != nil {
			slog.Warn("delivery refused", "status", statusOf(err), "err", err)
			return fiber.NewError(statusOf(err))
		}
		return c.SendStatus(fiber.StatusOK) // Mailtrap repeats a delivery after 201, 202 or 204
	})
	app.Get(livePath, adaptor.HTTPHandlerFunc(site.health.live))
	app.Get(readyPath, adaptor.HTTPHandlerFunc(site.health.ready))
	return app
}

// oneSignature refuses a request with several signatures, as the Handler does.
// c.Get returns the first of them.
func oneSignature(c fiber.Ctx) error {
	if len(c.Request().Header.PeekAll(mailtrapwebhook.SignatureHeader)) > 1 {
		return fiber.ErrBadRequest
	}
	return c.Next()
}

// detached gives the Handler a context that is not fasthttp's. A callback that
// overruns keeps its context after the request, when fasthttp's context serves
// another request. For the same reason, such a callback must not use
// Delivery.Request.
func detached(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.Background()))
	})
}

// answerError answers with the status alone. Fiber's own error handler shows
// the client the text of a panic.
func answerError(c fiber.Ctx, err error) error {
	status := fiber.StatusInternalServerError
	var own *fiber.Error
	if errors.As(err, &own) {
		status = own.Code
	}
	return c.Status(status).SendString(http.StatusText(status))
}

// A fiberServer has the methods of an [http.Server] that serve needs.
type fiberServer struct{ app *fiber.App }

func (s fiberServer) Serve(listener net.Listener) error {
	return s.app.Listener(listener, fiber.ListenConfig{DisableStartupMessage: true})
}

func (s fiberServer) Shutdown(ctx context.Context) error { return s.app.ShutdownWithContext(ctx) }
