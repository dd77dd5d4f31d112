package webhooktest_test

import "testing"

func TestExampleOfTestReceiver(t *testing.T) { testWebhooks(t) }
