module github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup

go 1.26.0

require (
	github.com/google/go-cmp v0.7.0
	github.com/jackc/pgx/v5 v5.12.0
	github.com/mailtrapwebhook/mailtrapwebhook v1.0.0
	github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/pgdedup v1.0.0
	github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/redisdedup v1.0.0
	github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/sqlitededup v1.0.0
	github.com/stretchr/testify v1.12.1
	golang.org/x/mod v0.43.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/dustin/go-humanize v1.1.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/jackc/puddle/v2 v2.2.3 // indirect
	github.com/mattn/go-isatty v0.0.24 // indirect
	github.com/ncruces/go-strftime v1.1.0 // indirect
	github.com/redis/go-redis/v9 v9.23.0 // indirect
	github.com/remyoudompheng/bigfft v0.0.0-20230129092748-24d4a6f8daec // indirect
	go.uber.org/atomic v1.12.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.41.0 // indirect
	modernc.org/libc v1.80.1 // indirect
	modernc.org/mathutil v1.7.1 // indirect
	modernc.org/memory v1.12.1 // indirect
	modernc.org/sqlite v1.62.0 // indirect
)

replace (
	github.com/mailtrapwebhook/mailtrapwebhook => ../..
	github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/pgdedup => ./pgdedup
	github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/redisdedup => ./redisdedup
	github.com/mailtrapwebhook/mailtrapwebhook/examples/dedup/sqlitededup => ./sqlitededup
)
