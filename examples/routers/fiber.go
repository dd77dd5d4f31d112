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

// newFiber has the routes in fiber, whose requests are fasthttp's: read whole before any handler runs, in memory that is
// used again for another request.
//
// So it is BodyLimit and not MaxBodyBytes or MaxInFlightBytes that bounds what a stranger's bodies take, times the number
// of connections, and ReadTimeout that cuts off a slow one. (The Handler says once in the log that it cannot.) Bind does
// no harm, since the body can be read again, but nothing may call SetBody first.
func newFiber(webhook *mailtrapwebhook.Handler, verifier *mailtrapwebhook.Verifier, onEvent callback) *fiber.App {
	app := fiber.New(fiber.Config{
		BodyLimit:    4 << 20, // many times what Mailtrap sends; more is answered 413
		ReadTimeout:  readTimeout,
		WriteTimeout: writeTimeout,
		IdleTimeout:  idleTimeout,
		ErrorHandler: answerError,
	})
	// Without the recoverer a panic ends the program: fasthttp has nothing of the kind, as net/http has.
	app.Use(logger.New(), recoverer.New(recoverer.Config{EnableStackTrace: true}))

	app.Post(webhookPath, oneSignature, adaptor.HTTPHandler(detached(webhook)))
	app.Post(verifiedPath, oneSignature, func(c fiber.Ctx) error {
		// Verify on the bytes that fasthttp has is simpler than a request made by adaptor.ConvertRequest, and as safe: the
		// events live in the copy that Parse makes. BodyRaw, since Body inflates, and that before anything is verified.
		body := c.BodyRaw()
		err := verifier.Verify(body, c.Get(mailtrapwebhook.SignatureHeader))
		if err == nil {
			// c.Context, not c or c.RequestCtx, which are another request's when this one is over.
			err = handleBody(c.Context(), body, onEvent)
		}
		if err != nil {
			slog.Warn("delivery refused", "status", statusOf(err), "err", err)
			return fiber.NewError(statusOf(err))
		}
		return c.SendStatus(fiber.StatusOK) // 201, 202 or 204 would have Mailtrap send it again
	})
	return app
}

// oneSignature refuses several signatures, as the package does where it sees them: the adaptor keeps the last of equal
// headers, and c.Get the first.
func oneSignature(c fiber.Ctx) error {
	if len(c.Request().Header.PeekAll(mailtrapwebhook.SignatureHeader)) > 1 {
		return fiber.ErrBadRequest
	}
	return c.Next()
}

// detached gives the Handler a context that is not fasthttp's. A callback that overruns its time goes on with it when the
// request is over, while fasthttp's then belongs to another request. For the same reason such a callback must not look at
// the Request of a Delivery.
func detached(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.Background()))
	})
}

// answerError tells the client no more than the status. Fiber's own error handler would tell it what a panic said.
func answerError(c fiber.Ctx, err error) error {
	status := fiber.StatusInternalServerError
	var own *fiber.Error
	if errors.As(err, &own) {
		status = own.Code
	}
	return c.Status(status).SendString(http.StatusText(status))
}

// A fiberServer gives an app the methods of an [http.Server].
type fiberServer struct{ app *fiber.App }

func (s fiberServer) Serve(listener net.Listener) error {
	return s.app.Listener(listener, fiber.ListenConfig{DisableStartupMessage: true})
}

func (s fiberServer) Shutdown(ctx context.Context) error { return s.app.ShutdownWithContext(ctx) }
