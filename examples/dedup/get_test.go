package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

const (
	packagePath = "github.com/mailtrapwebhook/mailtrapwebhook"
	storePath   = packagePath + "/examples/dedup/"
	version     = "v1.0.0" // what the stores require of the package
)

// Each store can be had by itself, without the replace directives of this
// repository, and brings no other store's driver.
func TestGetOneStore(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads modules")
	}
	drivers := map[string]string{
		"pgdedup":     "github.com/jackc/pgx/v5",
		"redisdedup":  "github.com/redis/go-redis/v9",
		"sqlitededup": "modernc.org/sqlite",
	}
	proxy := t.TempDir()
	publish(t, proxy, packagePath, "../..")
	for store := range drivers {
		publish(t, proxy, storePath+store, store)
	}
	for store := range drivers {
		t.Run(store, func(t *testing.T) {
			program := newModule(t, proxy)
			program.run("mod", "init", "example.com/program")
			source := fmt.Sprintf("package main\n\nimport _ %q\n\nfunc main() {}\n", storePath+store)
			require.NoError(t, os.WriteFile(filepath.Join(program.dir, "main.go"), []byte(source), 0o600))
			program.run("get", storePath+store)
			imported := strings.Fields(program.run("list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "."))
			required := strings.Fields(program.run("list", "-m", "-f", "{{.Path}}", "all"))
			for other, driver := range drivers {
				require.Equal(t, other == store, slices.Contains(imported, driver), "%s imports %s", store, driver)
				require.Equal(t, other == store, slices.Contains(required, driver), "%s requires %s", store, driver)
			}
		})
	}
}

// publish adds the module in a directory to a proxy of files.
func publish(t *testing.T, proxy, path, dir string) {
	base := filepath.Join(proxy, path, "@v", version)
	require.NoError(t, os.MkdirAll(filepath.Dir(base), 0o700))
	goMod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(base+".mod", goMod, 0o600))
	require.NoError(t, os.WriteFile(base+".info", fmt.Appendf(nil, `{"Version":%q}`, version), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(base), "list"), []byte(version+"\n"), 0o600))
	archive, err := os.Create(base + ".zip")
	require.NoError(t, err)
	require.NoError(t, zip.CreateFromDir(archive, module.Version{Path: path, Version: version}, dir))
	require.NoError(t, archive.Close())
}

// A moduleDir is the directory of a module of somebody else.
type moduleDir struct {
	t   *testing.T
	dir string
	env []string
}

// newModule returns an empty directory whose modules come from proxy. What else
// they need is taken from what this machine has downloaded, or is downloaded.
func newModule(t *testing.T, proxy string) *moduleDir {
	m := &moduleDir{t, t.TempDir(), os.Environ()}
	downloaded := strings.TrimSpace(m.run("env", "GOMODCACHE")) + "/cache/download"
	others := strings.TrimSpace(m.run("env", "GOPROXY"))
	m.env = append(m.env,
		"GOMODCACHE="+t.TempDir(), // the version above must not stay in the machine's own
		"GOPROXY=file://"+proxy+",file://"+downloaded+","+others,
		"GOSUMDB=off",
		"GOFLAGS=-modcacherw", // or the test could not remove its cache
		"GOWORK=off",
	)
	return m
}

// run runs the go command and returns what it prints.
func (m *moduleDir) run(args ...string) string {
	m.t.Helper()
	cmd := exec.CommandContext(m.t.Context(), "go", args...)
	cmd.Dir, cmd.Env = m.dir, m.env
	var stderr strings.Builder
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	require.NoError(m.t, err, "go %q: %s", args, &stderr)
	return string(output)
}
