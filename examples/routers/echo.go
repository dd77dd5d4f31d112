package main

import (
	"net/http"

	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// newEcho has the routes in echo.
//
// Give middleware that touches the body a Skipper for the two routes, or groups of its own:
//
//   - c.Bind leaves an empty body, which is answered 400.
//   - BodyDump puts the body back, but cut off at MaxRequestBytes, so that the signature of a larger one does not match.
//     And what it dumps is personal.
//   - Decompress hands on other bytes than those that were signed. The Handler answers 415 all the same.
//   - BodyLimit with less than Mailtrap sends, which is up to 500 events. What is over it is answered 413 if it says how
//     long it is; else the Handler finds that the body broke off, and answers 400.
func newEcho(
	webhook *mailtrapwebhook.Handler, verifier *mailtrapwebhook.Verifier, onEvent callback,
) http.Handler {
	router := echo.New()
	// RequestLogger writes the query too: where a Guard is a QueryToken, use RequestLoggerWithConfig and LogURIPath.
	router.Use(middleware.RequestLogger(), middleware.Recover())

	router.POST(webhookPath, echo.WrapHandler(webhook))
	router.POST(verifiedPath, func(c *echo.Context) error {
		body, err := verifier.VerifyRequest(c.Request())
		if err == nil {
			err = handleBody(c.Request().Context(), body, onEvent)
		}
		if err != nil {
			// RequestLogger writes what is wrapped. The client is told no more than the status.
			status := statusOf(err)
			return echo.NewHTTPError(status, http.StatusText(status)).Wrap(err)
		}
		return c.NoContent(http.StatusOK) // 201, 202 or 204 would have Mailtrap send it again
	})
	return router
}
