// Cmd runs the function of cloudfunctions on your machine, for a try. Google
// Cloud replaces it with its own main function. This server has no time limit.
package main

import (
	"cmp"
	"log"
	"os"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"

	_ "github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless/cloudfunctions"
)

func main() {
	port := cmp.Or(os.Getenv("PORT"), "8080")
	log.Printf("listening on http://127.0.0.1:%s/MailtrapWebhook", port)
	log.Fatal(funcframework.StartHostPort("127.0.0.1", port))
}
