// Package webhooktest helps to test programs that receive Mailtrap's webhooks.
//
// [Samples] and [Sample] return events as Mailtrap sends them. [Body] makes
// them a delivery, and [NewRequest] signs it:
//
//	body := webhooktest.Body(mailtrapwebhook.FormatJSON, webhooktest.Sample("bounce"))
//	w := httptest.NewRecorder()
//	handler.ServeHTTP(w, webhooktest.NewRequest("/webhooks/mailtrap", secret, body))
//
// A [Mailtrap] delivers to a URL, with Mailtrap's retries and time limit.
// [TestReceiver] tests a whole receiver, whichever package it is built on.
// [TestDeduplicator] tests an implementation of
// [mailtrapwebhook.Deduplicator].
package webhooktest
