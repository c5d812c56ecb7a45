// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// RedisLocation is what the URL of a Redis or of Celery's broker says.
type RedisLocation struct {
	// Servers has one server, or several between which Celery's workers switch.
	Servers []RedisServer
	// Sentinels are addresses, host:port. If there are any, they know the address of the only server. SentinelTLS is how they
	// use TLS; it is nil for connections without TLS.
	Sentinels   []string
	SentinelTLS *CheckTLS
}

// RedisServer is one server and how to log in.
type RedisServer struct {
	// Network and Address are those of net.Dial. They are empty if sentinels know them.
	Network, Address string
	// Username is empty for the default user. Password is empty if there is no login.
	Username string
	Password Secret
	Database int
	// TLS is nil for a connection without TLS.
	TLS *CheckTLS
}

// ParseRedis parses the URL of a check of the kinds redis and celery. It reads it as redis-py, valkey-py and kombu do
// (redis/connection.py, kombu/connection.py and kombu/utils/url.py). The error names parameters and holds no value.
func (c *Check) ParseRedis(text Secret) (*RedisLocation, error) {
	entries := strings.Split(string(text), ";")
	isSentinel := strings.HasPrefix(entries[0], "sentinel://")
	switch {
	case len(entries) > 1 && !isSentinel && c.Kind == CheckRedis:
		return nil, errors.New("lists several URLs: make each of them a check of its own")
	case isSentinel && c.MasterName == "":
		return nil, errors.New("is the URL of sentinels, which needs the key master_name")
	case !isSentinel && (c.MasterName != "" || c.SentinelUsername != "" || c.SentinelPassword.IsSet() || c.SentinelUsesTLS):
		return nil, errors.New("must begin with sentinel://, since the check has keys for sentinels")
	}
	l := &RedisLocation{}
	var first *url.URL
	for _, entry := range entries {
		u, err := parseRedisURL(entry)
		if err != nil {
			return nil, err
		}
		if (u.Scheme == "sentinel") != isSentinel {
			return nil, errors.New("lists both sentinels and servers")
		}
		if first != nil && isSentinel && !hasSameLogin(u, first) {
			return nil, errors.New("has a login, a database or a parameter in another URL than the first: " +
				"write it into the first URL")
		}
		server, err := c.redisServer(u)
		if err != nil {
			return nil, err
		}
		if isSentinel {
			l.Sentinels = append(l.Sentinels, server.Address)
			server.Network, server.Address = "", ""
		}
		if first == nil || !isSentinel {
			l.Servers = append(l.Servers, server)
		}
		if first == nil {
			first = u
		}
	}
	if isSentinel && c.SentinelUsesTLS {
		l.SentinelTLS = cmp.Or(l.Servers[0].TLS, &c.TLS)
	}
	return l, nil
}

// redisSchemes returns the schemes of URLs, sorted.
func redisSchemes() []string {
	return []string{"redis", "redis+socket", "rediss", "sentinel", "unix", "valkey", "valkeys"}
}

// parseRedisURL returns a URL with a known scheme.
func parseRedisURL(text string) (*url.URL, error) {
	scheme, _, found := strings.Cut(text, "://")
	switch {
	case found && strings.Contains(scheme, "sentinel") && scheme != "sentinel":
		return nil, errors.New("must be written as sentinel://HOST:PORT;sentinel://HOST:PORT, with the key master_name")
	case found && strings.Contains(scheme, "amqp"):
		return nil, errors.New("is the URL of a RabbitMQ, which cannot be checked as a broker: check its port with tcp")
	case !found || !slices.Contains(redisSchemes(), scheme):
		return nil, fmt.Errorf("must be a URL that begins with %s://", strings.Join(redisSchemes(), "://, "))
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Fragment != "" || u.Port() != "" && !isPort(u.Port()):
		return nil, errNoURL
	case strings.Contains(u.Host, ","):
		return nil, errors.New("names several hosts: " +
			"give each a URL, separated by semicolons for Celery and sentinels, otherwise in a check of its own")
	}
	return u, nil
}

// errNoURL is the error for a text that cannot be parsed. A special character in a password is the usual cause.
var errNoURL = errors.New("is not a valid URL (host, optional port from 1 to 65535): " +
	"percent-encode special characters in the password")

// hasSameLogin reports whether the URL of a sentinel has only a host and a port, or all else as the first one has it.
func hasSameLogin(u, first *url.URL) bool {
	rest := func(u *url.URL) string { return u.User.String() + "\n" + strings.Trim(u.Path, "/") + "\n" + u.RawQuery }
	return rest(u) == "\n\n" || rest(u) == rest(first)
}

// redisServer returns the server of a URL. For the URL of a sentinel, the address is that of the sentinel. An error is a
// ConnStringError.
func (c *Check) redisServer(u *url.URL) (RedisServer, error) {
	parameters, problems := redisParameters(u)
	s := RedisServer{Network: "tcp", Username: cmp.Or(u.User.Username(), parameters["username"])}
	password, _ := u.User.Password()
	if s.Password = Secret(cmp.Or(password, parameters["password"])); s.Password == "" { // as in redis-cli, a single word is it
		s.Username, s.Password = "", Secret(s.Username)
	}
	database := cmp.Or(parameters["db"], parameters["virtual_host"])
	if u.Scheme == "unix" || u.Scheme == "redis+socket" {
		if u.Host != "" || len(u.Path) < 2 {
			problems = append(problems, fmt.Sprintf("must have three slashes and the path of a socket: %s:///PATH", u.Scheme))
		}
		s.Network, s.Address = "unix", filepath.FromSlash(u.Path)
	} else {
		port := "6379"
		if u.Scheme == "sentinel" {
			port = "26379"
		}
		s.Address = net.JoinHostPort(cmp.Or(u.Hostname(), "localhost"), cmp.Or(u.Port(), port))
		if !regexp.MustCompile(`^/*[0-9]*/*$`).MatchString(u.Path) {
			problems = append(problems, "must be a URL whose path is the number of a database")
		} else {
			database = cmp.Or(database, strings.Trim(u.Path, "/"))
		}
	}
	if database != "" {
		var err error
		if s.Database, err = strconv.Atoi(strings.TrimPrefix(database, "/")); err != nil || s.Database < 0 {
			problems = append(problems, "has a database that is not a number")
		}
	}
	var err error
	if s.TLS, err = c.redisTLS(u.Scheme, parameters); err != nil {
		problems = append(problems, err.Error())
	}
	return s, problems.Err()
}

// ignoredRedisParameters returns the parameters of redis-py, valkey-py and kombu that have no meaning here: a check has its
// own timeout, opens a connection for each run, and reads no value.
func ignoredRedisParameters() []string {
	return []string{
		"charset", "client_name", "connect_timeout", "decode_responses", "driver_info", "encoding", "encoding_errors", "errors",
		"health_check_interval", "heartbeat", "insist", "lib_name", "lib_version", "login_method", "max_connections", "protocol",
		"retry_on_error", "retry_on_timeout", "single_connection_client", "socket_connect_timeout", "socket_keepalive",
		"socket_read_size", "socket_timeout", "timeout",
	}
}

// redisHints returns what to write instead of a parameter that is refused.
func redisHints() map[string]string {
	const ocsp = "the exporter does not look up whether a certificate was revoked"
	return map[string]string{
		"host": "write it before the question mark", "port": "write it before the question mark", "path": "write unix:///PATH",
		"ssl": "write rediss://", "tls": "write rediss://", "secure": "write rediss://", "master_name": "is a key beside the URL",
		"service_name": "is the key master_name beside the URL", "sentinel": "write sentinel://HOST:PORT, with the key master_name",
		"ssl_ca_path": "write a file with all certificates, ssl_ca_certs", "ssl_password": "write a key without a password",
		"ssl_min_version": "TLS 1.2 and newer are always used", "ssl_ciphers": "the ciphers of Go are always used",
		"ssl_validate_ocsp": ocsp, "ssl_validate_ocsp_stapled": ocsp, "ssl_ocsp_context": ocsp, "ssl_ocsp_expected_cert": ocsp,
	}
}

// redisParameters returns the parameters of a URL that matter here, and what is wrong with the others. As in the clients, one
// without a value does not count.
func redisParameters(u *url.URL) (parameters map[string]string, problems ConnStringError) {
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil || strings.Contains(u.RawQuery, "@") {
		return nil, ConnStringError{"has parameters that cannot be read: percent-encode special characters in the password"}
	}
	parameters = make(map[string]string)
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	all := slices.Concat(honouredRedisParameters(), ignoredRedisParameters(), slices.Collect(maps.Keys(redisHints())))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		given := slices.DeleteFunc(values[name], func(value string) bool { return value == "" })
		hint, refused := redisHints()[name]
		other := ""
		if !slices.Contains(all, name) {
			other = knownAs(name, slices.Values(all))
		}
		switch {
		case other != "":
			problem("has another spelling of the parameter %s: write %s", other, other)
		case len(given) == 0, slices.Contains(ignoredRedisParameters(), name):
		case strings.HasPrefix(name, "ssl_validate_ocsp") && !isTrue(given[0]):
		case refused:
			problem("has the parameter %s, which is refused: %s", name, hint)
		case !slices.Contains(honouredRedisParameters(), name) && isKey(name):
			problem("has the parameter %s, which is not known", name)
		case !slices.Contains(honouredRedisParameters(), name): // it may be a part of a password
			problem("has a parameter that is not known")
		case len(given) > 1:
			problem("has the parameter %s twice", name)
		default:
			parameters[name] = given[0]
		}
	}
	return parameters, problems
}

func honouredRedisParameters() []string {
	return []string{
		"db", "password", "ssl_ca_certs", "ssl_ca_data", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile",
		"username", "virtual_host",
	}
}

// isTrue reads a boolean as redis-py does.
func isTrue(value string) bool {
	return !slices.Contains([]string{"0", "F", "FALSE", "N", "NO"}, strings.ToUpper(value))
}

// redisTLS returns how to use TLS, or nil for a connection without TLS. As in kombu, a parameter that begins with ssl_
// turns TLS on for a broker, and for the servers behind sentinels.
func (c *Check) redisTLS(scheme string, parameters map[string]string) (*CheckTLS, error) {
	var given string
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		if strings.HasPrefix(name, "ssl_") {
			given = name
			break
		}
	}
	switch {
	case scheme == "rediss", scheme == "valkeys":
	case given == "":
		return nil, nil //nolint:nilnil // no TLS
	case scheme == "unix", scheme == "redis+socket":
		return nil, fmt.Errorf("has the parameter %s, and a unix socket has no TLS", given)
	case c.Kind == CheckRedis && scheme != "sentinel":
		return nil, fmt.Errorf("has the parameter %s, which needs rediss://", given)
	}
	file := func(name string) Content {
		path := parameters[name]
		if path != "" && !filepath.IsAbs(path) {
			path = filepath.Join(c.Folder, path)
		}
		return Content{Key: name, File: path}
	}
	t := c.TLS
	own := Content{Key: "ssl_ca_data", Text: Secret(parameters["ssl_ca_data"])}
	if parameters["ssl_ca_certs"] != "" {
		if own.IsSet() {
			return nil, errors.New("has both ssl_ca_certs and ssl_ca_data: keep one of them")
		}
		own = file("ssl_ca_certs")
	}
	if own.IsSet() {
		if t.Roots.IsSet() {
			return nil, fmt.Errorf("has the parameter %s, and the check also has sslrootcert: keep one of them", own.Key)
		}
		t.Roots = own
	}
	t.Cert, t.Key = file("ssl_certfile"), file("ssl_keyfile")
	switch {
	case t.Cert.IsSet() && !t.Key.IsSet(): // as in Python, the file may have both
		t.Key = t.Cert
	case t.Key.IsSet() && !t.Cert.IsSet():
		return nil, errors.New("has the parameter ssl_keyfile without ssl_certfile")
	}
	switch strings.TrimPrefix(strings.ToLower(parameters["ssl_cert_reqs"]), "cert_") {
	case "none":
		t.SkipVerify = true
	case "", "required", "optional": // a client verifies with either (Python's ssl.CERT_OPTIONAL)
	default:
		return nil, errors.New("has the parameter ssl_cert_reqs, which must be required, optional or none")
	}
	if check := parameters["ssl_check_hostname"]; check != "" {
		if t.SkipVerify && isTrue(check) {
			return nil, errors.New("has the parameter ssl_check_hostname, which needs ssl_cert_reqs=required")
		}
		t.SkipName = !isTrue(check)
	}
	return &t, nil
}
