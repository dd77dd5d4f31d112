package main

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

// newGin returns a gin router with the routes.
//
// No binding may come first, neither in middleware nor in the handler.
// ShouldBindJSON and its like leave an empty body, which is answered 400.
// ShouldBindBodyWith moves the bytes from the request to the context, and the
// Handler finds none. A handler of your own can pass those bytes to
// Verifier.Parse.
//
// No middleware may inflate the body, as the decompression of gin-contrib/gzip
// does. Its compression of answers does no harm. Gin does not limit bodies,
// since MaxMultipartMemory is about forms. The package's limit is 8 MiB.
func newGin(site *site) http.Handler {
	gin.SetMode(gin.ReleaseMode) // in debug mode Recovery logs the signature
	router := gin.New()
	router.HandleMethodNotAllowed = true // or a GET is answered 404

	// The query holds the token of a QueryToken.
	router.Use(gin.LoggerWithConfig(gin.LoggerConfig{SkipQueryString: true}), gin.Recovery())

	router.POST(webhookPath, gin.WrapH(site.webhook))
	router.POST(verifiedPath, func(c *gin.Context) {
		body, err := site.verifier.VerifyRequest(c.Request)
		if err == nil {
			// Pass the request's context: gin reuses c for another request.
			err = handleBody(c.Request.Context(), body, site.onEvent)
		}
		if err != nil {
			_ = c.AbortWithError(statusOf(err), err) // Logger writes err; the client gets the status
			return
		}
		c.Status(http.StatusOK) // Mailtrap repeats a delivery after 201, 202 or 204
	})
	router.GET(livePath, gin.WrapF(site.health.live))
	router.GET(readyPath, gin.WrapF(site.health.ready))
	return router
}
