module github.com/mailtrapwebhook/mailtrapwebhook/examples/proxies

go 1.26.0

replace github.com/mailtrapwebhook/mailtrapwebhook => ../..

require (
	github.com/mailtrapwebhook/mailtrapwebhook v0.0.0-00010101000000-000000000000
	github.com/stretchr/testify v1.12.1
)

require go.yaml.in/yaml/v3 v3.0.5 // indirect
