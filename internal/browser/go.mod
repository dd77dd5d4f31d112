module github.com/mailtrapwebhook/mailtrapwebhook/internal/browser

go 1.26

replace github.com/mailtrapwebhook/mailtrapwebhook => ../..

require (
	github.com/chromedp/cdproto v0.159.0 // indirect
	github.com/chromedp/chromedp v0.23.0 // indirect
	github.com/go-json-experiment/json v0.0.0-20260213210345-44df1a37e875 // indirect
	github.com/stretchr/testify v1.12.1 // indirect
)
