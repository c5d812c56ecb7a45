// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"math"
	"net"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Check has the settings of one check of a dependency. It is a plain value that does not change.
type Check struct {
	// Name is the check's key in the configuration file. No target has the same name.
	Name string
	// Kind is the kind of the dependency.
	Kind CheckKind
	// Timeout bounds one run. It is from MinTimeout to MaxTimeout.
	Timeout time.Duration
	// TTL is the time between a run that passed and the next run, TTLFailed that after a run that failed. Both are from a
	// second to 24 hours.
	TTL, TTLFailed time.Duration
	// Limits bound the number that a run finds.
	Limits Limits

	// Target is the name of the target on which SQL runs. Equals is the value that SQL must return, nil if it may be
	// any.
	Target, SQL string
	Equals      *string
	// LengthOf is the key in Redis whose length is the number. It is empty if there is none.
	LengthOf string
	// HTTP has the settings of the kind http.
	HTTP HTTP
	// KeyPrefix is the prefix of the names of Celery's keys and channels (global_keyprefix).
	KeyPrefix string
	// Queue is the queue whose consumers are counted. If it is empty, all of Celery's workers are.
	Queue string
	// MasterName is the name by which sentinels know a master. It is empty unless the URL is that of sentinels.
	// SentinelUsername and SentinelPassword are the login at the sentinels.
	MasterName, SentinelUsername string
	SentinelPassword             Content
	// SentinelUsesTLS is whether the sentinels, too, use TLS.
	SentinelUsesTLS bool

	// Location is where Redis, Celery's broker, HTTP or TCP is: a URL, or host:port for TCP. LocationFile is a file
	// that holds it instead and is read at each run. Both are empty for SQL.
	Location     Secret
	LocationFile string
	// Folder is where relative paths in Location begin.
	Folder string
	// TLS has the settings that are not in Location.
	TLS CheckTLS
}

// CheckKind is a kind of dependency.
type CheckKind string

// The kinds of dependencies.
const (
	CheckSQL    CheckKind = "sql"
	CheckRedis  CheckKind = "redis"
	CheckCelery CheckKind = "celery"
	CheckHTTP   CheckKind = "http"
	CheckTCP    CheckKind = "tcp"
)

// Limits bound a number. A limit that is nil does not exist. A number that equals a limit is within it.
type Limits struct{ WarnAbove, FailAbove, WarnBelow, FailBelow *float64 }

// Any reports whether there is a limit.
func (l *Limits) Any() bool {
	return l.WarnAbove != nil || l.FailAbove != nil || l.WarnBelow != nil || l.FailBelow != nil
}

const (
	checkTimeout = 5 * time.Second
	// py-healthcheck has the same ones.
	checkTTL       = 27 * time.Second
	checkTTLFailed = 9 * time.Second
)

// Equal reports whether two checks have the same settings.
func (c *Check) Equal(other *Check) bool { return reflect.DeepEqual(c, other) }

// SameDependency reports whether two checks have the same settings except times and limits. A result of one is then a result
// of the other.
func (c *Check) SameDependency(other *Check) bool {
	changed := *other
	changed.Timeout, changed.TTL, changed.TTLFailed, changed.Limits = c.Timeout, c.TTL, c.TTLFailed, c.Limits
	return c.Equal(&changed)
}

// ValidateLocation reports why text cannot be where the dependency is. The error does not hold the text.
func (c *Check) ValidateLocation(text Secret) error {
	switch c.Kind {
	case CheckTCP:
		if host, port, err := net.SplitHostPort(string(text)); err != nil || host == "" || !isPort(port) {
			return errors.New("must be host:port")
		}
		return nil
	case CheckRedis, CheckCelery:
		_, err := c.ParseRedis(text)
		return err
	}
	scheme, _, found := strings.Cut(string(text), "://")
	if !found || scheme != "http" && scheme != "https" {
		return errors.New("must be a URL that begins with http:// or https://")
	}
	u, err := url.Parse(string(text))
	if err != nil || u.Hostname() == "" || u.Port() != "" && !isPort(u.Port()) {
		return errNoURL
	}
	if u.User != nil && (c.HTTP.Username.IsSet() || c.HTTP.Credentials.IsSet()) {
		return errors.New("has a login, and the check also has basic_auth or authorization: keep one of them")
	}
	return nil
}

// isPort reports whether a text is a number from 1 to 65535.
func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

// checkEntry is a check, which may have problems, with the nodes of its keys.
type checkEntry struct {
	*Check
	given map[string]*yaml.Node
}

// check reads one check.
func (b *builder) check(name string, n *yaml.Node, where string) checkEntry {
	c := &Check{Name: name, Timeout: checkTimeout, TTL: checkTTL, TTLFailed: checkTTLFailed, Folder: b.folder}
	given := make(map[string]*yaml.Node)
	known := make(fields)
	key := func(key string, read func(*yaml.Node, string)) {
		known[key] = func(n *yaml.Node, where string) {
			given[key] = n
			read(n, where)
		}
	}
	text := func(to *string) func(*yaml.Node, string) {
		return func(n *yaml.Node, where string) { *to = b.text(n, where) }
	}
	duration := func(to *time.Duration, minValue, maxValue time.Duration) func(*yaml.Node, string) {
		return func(n *yaml.Node, where string) {
			if d := b.duration(n, where, minValue, maxValue); d != nil {
				*to = *d
			}
		}
	}
	key("timeout", duration(&c.Timeout, MinTimeout, MaxTimeout))
	key("ttl", duration(&c.TTL, time.Second, 24*time.Hour))
	key("ttl_failed", duration(&c.TTLFailed, time.Second, 24*time.Hour))
	for name, to := range map[string]**float64{
		"warn_above": &c.Limits.WarnAbove, "fail_above": &c.Limits.FailAbove,
		"warn_below": &c.Limits.WarnBelow, "fail_below": &c.Limits.FailBelow,
	} {
		key(name, func(n *yaml.Node, where string) { *to = b.number(n, where) })
	}
	key("target", text(&c.Target))
	key("sql", text(&c.SQL))
	key("equals", func(n *yaml.Node, where string) {
		value := b.text(n, where)
		c.Equals = &value
	})
	key("length_of", text(&c.LengthOf))
	b.httpFields(c, key)
	key("key_prefix", text(&c.KeyPrefix))
	key("queue", text(&c.Queue))
	key("master_name", text(&c.MasterName))
	key("sentinel_username", text(&c.SentinelUsername))
	b.content(key, "sentinel_password", &c.SentinelPassword)
	key("sentinel_tls", func(n *yaml.Node, where string) {
		if own := b.boolean(n, where); own != nil {
			c.SentinelUsesTLS = *own
		}
	})
	key("sslrootcert", func(n *yaml.Node, where string) {
		if c.TLS.Roots.IsSet() {
			b.problem(n, where, "cannot be combined with ca of tls_config")
		}
		c.TLS.Roots = Content{Key: "sslrootcert", File: b.fromFolder(b.text(n, where))}
	})
	for _, kind := range []CheckKind{CheckRedis, CheckCelery, CheckHTTP, CheckTCP} {
		readers := b.textOrFile(
			string(kind),
			func(text string) { c.Location = Secret(text) },
			func(path string) { c.LocationFile = path },
		)
		for name, read := range readers { // checkKind finds several, also of different kinds
			key(name, read)
		}
	}
	b.mapping(n, where, known)
	b.checkKind(c, n, where, given)
	if b.verify.Check != nil && c.Kind != "" {
		for _, err := range b.verify.Check(c) {
			b.problem(n, "", "%s.%s", where, err)
		}
	}
	b.file.Checks = append(b.file.Checks, c)
	return checkEntry{c, given}
}

// content adds the keys of a text that may also be in a variable or a file. key is the function of check that adds a
// key.
func (b *builder) content(key func(string, func(*yaml.Node, string)), name string, to *Content) {
	readers := b.textOrFile(
		name,
		func(text string) { *to = Content{Text: Secret(text)} },
		func(path string) { *to = Content{File: path} },
	)
	for name, read := range readers {
		readers[name] = func(n *yaml.Node, where string) {
			read(n, where)
			to.Key = name
		}
	}
	b.oneWay(key, readers)
}

// variableName reads the name of a variable.
func (d *decoder) variableName(n *yaml.Node, where string) string {
	name := d.text(n, where)
	if strings.ContainsAny(name, "$={}") {
		d.problem(n, where, "must be the name of a variable, without $")
		return ""
	}
	return name
}

// variable reads the name of a variable, which must be set, and returns the variable's value without line ends.
func (d *decoder) variable(n *yaml.Node, where string) Secret {
	name := d.variableName(n, where)
	value := Secret(strings.TrimRight(os.Getenv(name), "\r\n"))
	if name != "" && value == "" {
		d.problem(n, where, "the variable is not set, or is empty")
	}
	return value
}

// kindsOfKeys returns the keys that only some kinds have, each with these kinds.
func kindsOfKeys() map[string][]CheckKind {
	numbers := []CheckKind{CheckSQL, CheckRedis, CheckCelery}
	redis, http := []CheckKind{CheckRedis, CheckCelery}, []CheckKind{CheckHTTP}
	return map[string][]CheckKind{
		"target": {CheckSQL}, "equals": {CheckSQL}, "length_of": {CheckRedis},
		"status": http, "match": http, "follow_redirects": http, "basic_auth": http, "authorization": http, "http_headers": http,
		"proxy_url": http, "proxy_url_env": http, "proxy_url_file": http, "no_proxy": http, "proxy_from_environment": http,
		"proxy_connect_header": http, "tls_config": http,
		"sslrootcert": {CheckRedis, CheckCelery, CheckHTTP}, "key_prefix": {CheckCelery}, "queue": {CheckCelery},
		"master_name": redis, "sentinel_username": redis, "sentinel_password": redis, "sentinel_password_env": redis,
		"sentinel_password_file": redis, "sentinel_tls": redis,
		"warn_above": numbers, "fail_above": numbers, "warn_below": numbers, "fail_below": numbers,
	}
}

// checkKind sets the kind of a check, and finds keys that do not belong to the kind. given has the values of the entry.
func (b *builder) checkKind(c *Check, n *yaml.Node, where string, given map[string]*yaml.Node) {
	var ways []string
	for _, kind := range []CheckKind{CheckSQL, CheckRedis, CheckCelery, CheckHTTP, CheckTCP} {
		for _, way := range []string{string(kind), string(kind) + "_env", string(kind) + "_file"} {
			if given[way] != nil {
				ways = append(ways, way)
				c.Kind = kind
			}
		}
	}
	switch len(ways) {
	case 0:
		b.problem(n, where, "needs one of sql, redis, celery, http and tcp, or one of the last four with _env or _file")
		return
	case 1:
	default:
		b.problem(n, where, "has both %s and %s: keep one of them", ways[0], ways[1])
		return
	}
	for key, kinds := range kindsOfKeys() {
		if given[key] != nil && !slices.Contains(kinds, c.Kind) {
			b.problem(given[key], join(where, key), "cannot be combined with %s", ways[0])
		}
	}
	if c.Location != "" {
		if err := c.ValidateLocation(c.Location); err != nil {
			b.problem(given[ways[0]], join(where, ways[0]), "%s", err)
		}
	}
	b.checkHTTP(c, where, given)
	l := &c.Limits
	hasLimits := slices.ContainsFunc([]string{"warn_above", "fail_above", "warn_below", "fail_below"},
		func(key string) bool { return given[key] != nil })
	if c.SentinelUsername != "" && !c.SentinelPassword.IsSet() {
		b.problem(given["sentinel_username"], join(where, "sentinel_username"), "needs a sentinel_password")
	}
	if c.Kind == CheckSQL && given["target"] == nil {
		b.problem(n, where, "needs a target to run its SQL on")
	}
	switch {
	case c.Kind == CheckSQL && given["equals"] != nil && hasLimits:
		b.problem(given["equals"], join(where, "equals"), "cannot be combined with limits")
	case c.Kind == CheckRedis && hasLimits && given["length_of"] == nil:
		b.problem(n, where, "has limits, but no length_of: add it, or remove the limits")
	case c.Kind == CheckRedis && !hasLimits && given["length_of"] != nil:
		b.problem(given["length_of"], join(where, "length_of"),
			"has no limits: add warn_above, fail_above, warn_below or fail_below")
	case c.Kind == CheckCelery && given["fail_below"] == nil:
		one := 1.0
		l.FailBelow = &one
		given["fail_below"] = n // for problems with it, below
	}
	for _, pair := range []struct {
		low, high       *float64
		lowKey, highKey string
	}{
		{l.WarnAbove, l.FailAbove, "warn_above", "fail_above"},
		{l.FailBelow, l.WarnBelow, "fail_below", "warn_below"},
		{l.FailBelow, l.FailAbove, "fail_below", "fail_above"},
		{l.FailBelow, l.WarnAbove, "fail_below", "warn_above"},
		{l.WarnBelow, l.FailAbove, "warn_below", "fail_above"},
		{l.WarnBelow, l.WarnAbove, "warn_below", "warn_above"},
	} {
		if pair.low != nil && pair.high != nil && *pair.low > *pair.high {
			text := "is above "
			if given[pair.lowKey] == n { // the default
				text = "is 1 unless set, which is above "
			}
			b.problem(given[pair.lowKey], join(where, pair.lowKey), "%s%s", text, pair.highKey)
		}
	}
}

// checkTargets finds checks that have the name of a target, or whose target cannot run SQL. targets has all targets, by
// their names.
func (b *builder) checkTargets(checks []checkEntry, targets map[string]targetEntry) {
	for _, c := range checks {
		n, where := c.given["target"], join(join("checks", c.Name), "target")
		target, found := targets[c.Target]
		switch {
		case c.Target == "": // it is among the problems, or not given
		case c.Kind == CheckSQL && !found:
			b.problem(n, where, "there is no target with this name")
		case target.kind == KindPgBouncer:
			b.problem(n, where, "is a PgBouncer: a check with sql needs a target of kind postgres")
		}
		if namesake, found := targets[c.Name]; found {
			b.problem(namesake.node, join("targets", c.Name), "a check has this name too: give one of them another name")
		}
	}
	slices.SortFunc(b.file.Checks, func(x, y *Check) int { return cmp.Compare(x.Name, y.Name) })
}

// number reads a number that is not infinite.
func (d *decoder) number(n *yaml.Node, where string) *float64 {
	text := d.text(n, where)
	if text == "" {
		return nil
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		d.problem(n, where, "must be a number")
		return nil
	}
	return &v
}

// pattern reads a regular expression in Go's syntax.
func (d *decoder) pattern(n *yaml.Node, where string) *regexp.Regexp {
	text := d.text(n, where)
	if text == "" {
		return nil
	}
	pattern, err := regexp.Compile(text)
	if err != nil {
		d.problem(n, where, "must be a regular expression in Go's syntax (RE2)")
	}
	return pattern
}
