module github.com/mailtrapwebhook/mailtrapwebhook/examples/serverless

go 1.26.0

replace (
	github.com/mailtrapwebhook/mailtrapwebhook => ../..
	github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/pgdedup => ../dedup/pgdedup
	github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/redisdedup => ../dedup/redisdedup
)

require (
	github.com/GoogleCloudPlatform/functions-framework-go v1.9.2
	github.com/aws/aws-lambda-go v1.55.1
	github.com/google/go-cmp v0.7.0
	github.com/jackc/pgx/v5 v5.12.0
	github.com/mailtrapwebhook/mailtrapwebhook v1.0.0
	github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/pgdedup v1.0.0
	github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/redisdedup v1.0.0
	github.com/stretchr/testify v1.12.1
)

require (
	cloud.google.com/go/functions v1.27.1 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/cloudevents/sdk-go/v2 v2.16.2 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/jackc/puddle/v2 v2.2.3 // indirect
	github.com/json-iterator/go v1.1.12 // indirect
	github.com/modern-go/concurrent v0.0.0-20180306012644-bacd9c7ef1dd // indirect
	github.com/modern-go/reflect2 v1.0.2 // indirect
	github.com/redis/go-redis/v9 v9.23.0 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	go.uber.org/zap v1.28.0 // indirect
	go.yaml.in/yaml/v3 v3.0.6 // indirect
	golang.org/x/sync v0.25.0 // indirect
	golang.org/x/sys v0.50.0 // indirect
	golang.org/x/text v0.44.0 // indirect
)
