// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// hiddenText stands for every text of the operator's that Effective does not show.
const hiddenText = "<hidden>"

// effectiveComment opens what Effective returns.
const effectiveComment = `The effective configuration: each module, target and check has its values with those of the levels above it.
Every text is ` + hiddenText + `, except for names, labels, the words and fields of /health, and values from a fixed list.`

// Effective returns the configuration that is in effect, as YAML in UTF-8. It is a valid configuration once each <hidden> is
// the value that it stands for. The values of user_env and of the location of a check (redis_env, http_env, …) have the key without
// _env.
//
// It holds no secret, address, user, path or statement that the operator has written as a value: a text is shown only if it is a
// label, a text of /health, or one of a few that the configuration knows. The names of targets, modules, checks and HTTP headers are
// shown.
func (f *File) Effective() ([]byte, error) {
	root := newMapping()
	root.add("health", f.Health.effective())
	if f.defaults.timeout != nil {
		root.add("defaults", f.defaults.effective(nil).node)
	}
	modules, targets, checks := newMapping(), newMapping(), newMapping()
	for _, name := range slices.Sorted(maps.Keys(f.modules)) {
		modules.add(name, f.modules[name].effective())
	}
	for _, t := range f.Targets {
		e := f.entries[t.Name]
		targets.add(t.Name, t.effective(&e))
	}
	for _, c := range f.Checks {
		checks.add(c.Name, c.effective())
	}
	root.addUnlessEmpty("modules", modules)
	root.addUnlessEmpty("targets", targets)
	root.addUnlessEmpty("checks", checks)
	root.node.HeadComment = effectiveComment
	var content bytes.Buffer
	encoder := yaml.NewEncoder(&content)
	encoder.SetIndent(2)
	if err := encoder.Encode(root.node); err != nil {
		return nil, err
	}
	return content.Bytes(), nil
}

func (h *Health) effective() *yaml.Node {
	m := newMapping()
	m.add("max_age", shownTime(h.MaxAge))
	m.add("fail_after", shownNumber(strconv.FormatUint(h.FailAfter, 10)))
	m.add("pass_after", shownNumber(strconv.FormatUint(h.PassAfter, 10)))
	m.add("failure_status", shownNumber(strconv.Itoa(h.FailureStatus)))
	words := newMapping()
	words.add("pass", shown(h.StatusNames.Pass))
	words.add("warn", shown(h.StatusNames.Warn))
	words.add("fail", shown(h.StatusNames.Fail))
	m.add("words", words.node)
	extra := newMapping()
	for _, name := range slices.Sorted(maps.Keys(h.Extra)) {
		switch value := h.Extra[name].(type) {
		case string:
			extra.add(name, shown(value))
		case int64:
			extra.add(name, shownNumber(strconv.FormatInt(value, 10)))
		case bool:
			extra.add(name, shownBool(value))
		}
	}
	m.addUnlessEmpty("extra", extra)
	return m.node
}

func (m *module) effective() *yaml.Node {
	to := m.settings.effective(nil)
	if m.allow != nil {
		to.add("allow", hideAll(len(m.allow.names)+len(m.allow.networks)))
	}
	return to.node
}

// effective returns the target. e is what the target was made of.
func (t *Target) effective(e *entry) *yaml.Node {
	s := e.merged
	switch {
	case t.Login.Environment != nil:
		s = settings{} // the variables have the rest
	case e.dsnFile != "":
		s = e.own // what the file has is not known, and overrides the rest
	}
	s.kind, s.labels = &t.Kind, e.merged.labels
	s.timeout, s.interval, s.keep = &t.Timeout, &t.Interval, &t.Keep
	s.applications, s.commit = &t.Applications, &t.Commit
	conn := t.Login.Connection
	if t.Login.Unread != nil && e.dsnFile == "" {
		complete := e.withPlaceholders() // what a file has does not change sslmode
		if login, err := complete.login(); err == nil {
			conn = login.Connection
		}
	}
	if e.dsnKey != "" {
		s.dbname = nil // a connection string has it
	} else if conn != nil {
		s.sslmode = &conn.TLS.Mode
	}
	inDSN, _ := ParseConnString(e.dsn.Secret()) // it was parsed before

	to := newMapping()
	if t.Module != "" {
		to.add("module", shown(t.Module))
	}
	switch {
	case t.Login.Environment != nil:
		to.add("environment", commented(shownBool(true), t.Login.Environment.Source))
	case e.dsnKey != "":
		dsn := shown(hiddenText)
		if _, has := inDSN[keySSLMode]; has && conn != nil {
			dsn = commented(dsn, "with sslmode="+conn.TLS.Mode)
		}
		to.add(e.dsnKey, dsn)
	case e.hostKey != "":
		to.add(e.hostKey, shown(hiddenText))
		to.add("hostaddr", hide(e.hostaddr))
		to.add("port", shownNumber(cmp.Or(strings.TrimSpace(e.port), "5432")))
		dbname := s.database()
		s.dbname = &dbname
	}
	to.node.Content = append(to.node.Content, s.effective(inDSN).node.Content...)
	return to.node
}

// effective returns the settings that are set, in a mapping. It leaves out those that a connection string overrides.
func (s *settings) effective(overridden ConnSettings) *mapping {
	to := newMapping()
	add := func(key, inDSN string, value *yaml.Node) {
		if _, has := overridden[inDSN]; !has {
			to.add(key, value)
		}
	}
	kind := s.serverKind()
	to.add("kind", shown(string(kind)))
	if s.dbname != nil && *s.dbname == kind.DefaultDatabase() {
		add("dbname", keyDatabase, shown(*s.dbname))
	} else {
		add("dbname", keyDatabase, hidePointer(s.dbname))
	}
	add("user", keyUser, hidePointer(s.user))
	add("user_file", keyUser, hidePointer(s.userFile))
	if s.password != nil {
		key, value := s.password.effective(keyPassword)
		add(key, keyPassword, value)
	}
	if s.cloudInsecure {
		to.add("cloud_auth_insecure", shownBool(true))
	}
	if hasCommand := s.password != nil && s.password.Command != nil; hasCommand || s.password == nil && s.ttl != nil {
		ttl := defaultCommandTTL
		to.add("password_command_ttl", shownTime(*either(s.ttl, &ttl)))
	}
	if s.sslmode != nil {
		add("sslmode", keySSLMode, shown(*s.sslmode))
	}
	if s.sslrootcert != nil && *s.sslrootcert == "system" {
		add("sslrootcert", "sslrootcert", shown("system"))
	} else {
		add("sslrootcert", "sslrootcert", hidePointer(s.sslrootcert))
	}
	_, hasCert := overridden["sslcert"]
	_, hasKey := overridden["sslkey"]
	if !hasCert && !hasKey { // a level has both
		to.add("sslcert", hidePointer(s.sslcert))
		to.add("sslkey", hidePointer(s.sslkey))
	}
	if s.sslpassword != nil {
		key, value := s.sslpassword.effective(keySSLPassword)
		add(key, keySSLPassword, value)
	}
	add("sslcrl", "sslcrl", hidePointer(s.sslcrl))
	add("server_name", keyServerName, hidePointer(s.serverName))
	if s.requireAuth != nil {
		add("require_auth", keyRequireAuth, shown(*s.requireAuth))
	}
	if s.timeout != nil {
		p := s.probing()
		to.add("timeout", shownTime(p.Timeout))
		to.add("interval", shownTime(p.Interval))
		to.add("applications", shownBool(p.Applications))
		to.add("commit", shownBool(p.Commit))
		to.add("keep", shownBool(p.Keep))
	}
	labels := newMapping()
	for _, label := range sortedLabels(s.labels) {
		labels.add(label.Name, shown(label.Value))
	}
	to.addUnlessEmpty("labels", labels)
	return to
}

// effective returns the key of the source and the value to show. key is the key of the password itself.
func (s *PasswordSource) effective(key string) (string, *yaml.Node) {
	switch {
	case s.File != "":
		return key + "_file", hide(s.File)
	case s.Variable != "":
		return key + "_env", hide(s.Variable)
	case s.Command != nil:
		return key + "_command", hideAll(len(s.Command.Template))
	case s.Cloud != nil:
		return keyCloudAuth, s.Cloud.effective()
	}
	return key, shown(hiddenText)
}

// effective returns the name of the cloud, or a mapping if there is more to show.
func (a *CloudAuth) effective() *yaml.Node {
	provider := shown(string(a.Provider))
	to := newMapping()
	to.add("provider", provider)
	to.add("region", hide(a.Region))
	to.add("role_arn", hide(a.RoleARN))
	to.add("client_id", hide(a.ClientID))
	to.add("scope", hide(a.Scope))
	if *a == (CloudAuth{Provider: a.Provider}) {
		return provider
	}
	return to.node
}

func (c *Check) effective() *yaml.Node {
	to := newMapping()
	switch {
	case c.Kind == CheckSQL:
		to.add("target", shown(c.Target))
		to.add("sql", hide(c.SQL))
		to.add("equals", hidePointer(c.Equals))
	case c.LocationFile != "":
		to.add(string(c.Kind)+"_file", hide(c.LocationFile))
	default:
		to.add(string(c.Kind), shown(hiddenText))
	}
	to.add("length_of", hide(c.LengthOf))
	to.add("key_prefix", hide(c.KeyPrefix))
	to.add("queue", hide(c.Queue))
	to.add("master_name", hide(c.MasterName))
	to.add("sentinel_username", hide(c.SentinelUsername))
	to.addContent(c.SentinelPassword)
	if c.MasterName != "" || c.SentinelUsesTLS {
		to.add("sentinel_tls", shownBool(c.SentinelUsesTLS))
	}
	if c.Kind == CheckHTTP {
		c.HTTP.effective(to)
	}
	c.TLS.effective(to)
	to.addLimit("warn_above", c.Limits.WarnAbove)
	to.addLimit("fail_above", c.Limits.FailAbove)
	to.addLimit("warn_below", c.Limits.WarnBelow)
	to.addLimit("fail_below", c.Limits.FailBelow)
	to.add("timeout", shownTime(c.Timeout))
	to.add("ttl", shownTime(c.TTL))
	to.add("ttl_failed", shownTime(c.TTLFailed))
	return to.node
}

// effective adds the keys of an HTTP check.
func (h *HTTP) effective(to *mapping) {
	statuses := newList()
	for _, r := range h.Statuses {
		statuses.Content = append(statuses.Content, shown(r.String()))
	}
	to.add("status", statuses)
	if h.Match != nil {
		to.add("match", shown(hiddenText))
	}
	to.add("follow_redirects", shownBool(!h.KeepRedirects))
	auth := newMapping()
	auth.addContent(h.Username)
	auth.addContent(h.Password)
	to.addUnlessEmpty("basic_auth", auth)
	if h.Credentials.IsSet() {
		authorization := newMapping()
		if h.AuthorizationType == defaultAuthorization {
			authorization.add("type", shown(defaultAuthorization))
		} else {
			authorization.add("type", hide(h.AuthorizationType))
		}
		authorization.addContent(h.Credentials)
		to.add("authorization", authorization.node)
	}
	headers := newMapping()
	for _, header := range h.Headers {
		files := slices.DeleteFunc(slices.Clone(header.Values), func(c Content) bool { return c.File == "" })
		values := newMapping()
		values.add("secrets", hideAll(len(header.Values)-len(files)))
		values.add("files", hideAll(len(files)))
		headers.add(header.Name, values.node)
	}
	to.addUnlessEmpty("http_headers", headers)
	to.addContent(h.Proxy.URL)
	to.add("no_proxy", hide(h.Proxy.NoProxy))
	to.add("proxy_from_environment", shownBool(h.Proxy.FromEnvironment))
	connect := newMapping()
	for _, header := range h.Proxy.ConnectHeaders {
		connect.add(header.Name, hideAll(len(header.Values)))
	}
	to.addUnlessEmpty("proxy_connect_header", connect)
}

// effective adds the keys of TLS.
func (t *CheckTLS) effective(to *mapping) {
	inner := newMapping()
	if t.Roots.Key == "sslrootcert" {
		to.addContent(t.Roots)
	} else {
		inner.addContent(t.Roots)
	}
	inner.addContent(t.Cert)
	inner.addContent(t.Key)
	inner.add("server_name", hide(t.ServerName))
	version := func(key string, value uint16) {
		name := map[uint16]string{tls.VersionTLS12: "TLS12", tls.VersionTLS13: "TLS13"}[value]
		if name != "" {
			inner.add(key, shown(name))
		}
	}
	version("min_version", t.MinVersion)
	version("max_version", t.MaxVersion)
	if t.SkipVerify {
		inner.add("insecure_skip_verify", shownBool(true))
	}
	to.addUnlessEmpty("tls_config", inner)
}

// mapping is a YAML mapping whose keys have the order in which they were added.
type mapping struct{ node *yaml.Node }

func newMapping() *mapping { return &mapping{&yaml.Node{Kind: yaml.MappingNode}} }

// add adds a key, unless value is nil.
func (m *mapping) add(key string, value *yaml.Node) {
	if value != nil {
		m.node.Content = append(m.node.Content, shown(key), value)
	}
}

func (m *mapping) addUnlessEmpty(key string, value *mapping) {
	if len(value.node.Content) > 0 {
		m.add(key, value.node)
	}
}

// addContent adds a hidden text under the key that set it, if there is one.
func (m *mapping) addContent(c Content) {
	if c.IsSet() {
		m.add(c.Key, shown(hiddenText))
	}
}

func (m *mapping) addLimit(key string, limit *float64) {
	if limit != nil {
		m.add(key, shownNumber(strconv.FormatFloat(*limit, 'f', -1, 64)))
	}
}

// hide returns a node that stands for a text, or nil if the text is empty.
func hide(text string) *yaml.Node {
	if text == "" {
		return nil
	}
	return shown(hiddenText)
}

func hidePointer(text *string) *yaml.Node {
	if text == nil {
		return nil
	}
	return shown(hiddenText)
}

// hideAll returns a list that stands for a number of texts, or nil if there are none.
func hideAll(count int) *yaml.Node {
	if count == 0 {
		return nil
	}
	list := newList()
	for range count {
		list.Content = append(list.Content, shown(hiddenText))
	}
	return list
}

func newList() *yaml.Node { return &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle} }

// shown returns a text that may be shown. It must be a name, a label, a text of /health or one of a few that are known.
func shown(text string) *yaml.Node {
	var n yaml.Node
	_ = n.Encode(text) // ignored: every text can be encoded, with quotes if it would be read as something else
	return &n
}

func shownNumber(text string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: text} }

func shownBool(value bool) *yaml.Node { return shownNumber(strconv.FormatBool(value)) }

func shownTime(d time.Duration) *yaml.Node { return shown(ShortDuration(d)) }

func commented(n *yaml.Node, comment string) *yaml.Node {
	n.LineComment = comment
	return n
}
