package main

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// newGin has the routes in gin.
//
// No binding may come first, neither in middleware nor in the handler: ShouldBindJSON and its like leave an empty body,
// which is answered 400. ShouldBindBodyWith keeps the bytes, but in the context and not in the request, so that the
// Handler finds none; a handler of one's own can take them from there, and pass them to Verifier.Parse. Nor may anything
// inflate the body, as the decompression of gin-contrib/gzip does; its compression of answers does no harm.
//
// Gin has no limit on bodies (MaxMultipartMemory is about forms): it is the package's own, 8 MiB.
func newGin(
	webhook *mailtrapwebhook.Handler, verifier *mailtrapwebhook.Verifier, onEvent callback,
) http.Handler {
	gin.SetMode(gin.ReleaseMode) // when debugging, Recovery logs the headers, and with them the signature
	router := gin.New()
	router.HandleMethodNotAllowed = true // else another method than POST is answered 404

	// Where a Guard is a QueryToken, the query holds the token.
	router.Use(gin.LoggerWithConfig(gin.LoggerConfig{SkipQueryString: true}), gin.Recovery())

	router.POST(webhookPath, gin.WrapH(webhook))
	router.POST(verifiedPath, func(c *gin.Context) {
		body, err := verifier.VerifyRequest(c.Request)
		if err == nil {
			// The request's context, not c itself, which gin uses again for another request.
			err = handleBody(c.Request.Context(), body, onEvent)
		}
		if err != nil {
			_ = c.AbortWithError(statusOf(err), err) // Logger writes the reason, the client is not told
			return
		}
		c.Status(http.StatusOK) // 201, 202 or 204 would have Mailtrap send it again
	})
	return router
}
