// Cmd runs the function of cloudfunctions on this machine, to try it. Google Cloud has a main function of its own in
// its place, and limits how long a request may take, which this server does not.
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
