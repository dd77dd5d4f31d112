package main

import (
	"net/http"

	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"
)

// newEcho returns an echo router with the routes.
//
// Give this middleware a Skipper for the two routes, or use a Group for the
// other routes:
//
//   - c.Bind leaves an empty body, which is answered 400.
//   - BodyDump hands out personal data. It leaves the body as it was.
//   - Decompress changes the signed bytes. The Handler answers 415 all the
//     same.
//   - BodyLimit must allow 500 events. A larger body is answered 413 if its
//     length is known. Otherwise the body breaks off, and the Handler answers
//     400.
func newEcho(site *site) http.Handler {
	router := echo.New()
	// RequestLogger writes the query, which holds the token of a QueryToken.
	// Use RequestLoggerWithConfig and LogURIPath with such a Guard.
	router.Use(middleware.RequestLogger(), middleware.Recover())

	router.POST(webhookPath, echo.WrapHandler(site.webhook))
	router.POST(verifiedPath, func(c *echo.Context) error {
		body, err := site.verifier.VerifyRequest(c.Request())
		if err == nil {
			err = handleBody(c.Request().Context(), body, site.onEvent)
		}
		if err != nil {
			// RequestLogger writes the wrapped error. The client gets the
			// status.
			status := statusOf(err)
			return echo.NewHTTPError(status, http.StatusText(status)).Wrap(err)
		}
		return c.NoContent(http.StatusOK) // Mailtrap repeats a delivery after 201, 202 or 204
	})
	router.GET(livePath, echo.WrapHandler(http.HandlerFunc(site.health.live)))
	router.GET(readyPath, echo.WrapHandler(http.HandlerFunc(site.health.ready)))
	return router
}
