// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import "errors"

// Environment is the one server that environment variables name.
type Environment struct {
	// Source names the variable, or the variables, for messages: DATABASE_URL_FILE, POSTGRES_*.
	Source string
	// Form is how the variables make a connection string.
	Form EnvironmentForm
	// Variables are those that the form uses and that are set, by their names without the suffix _FILE.
	Variables map[string]Variable
}

// EnvironmentForm is a way to name a server in the environment.
type EnvironmentForm int

// The forms, in the order of their precedence.
const (
	// FormDataSourceName is DATA_SOURCE_NAME, a URL or keyword=value.
	FormDataSourceName EnvironmentForm = iota
	// FormDataSourceURI is DATA_SOURCE_URI with DATA_SOURCE_USER and DATA_SOURCE_PASS: postgres_exporter's names.
	FormDataSourceURI
	// FormDatabaseURL is DATABASE_URL.
	FormDatabaseURL
	// FormContainerImage is POSTGRES_HOST, POSTGRES_PORT, POSTGRES_DB, POSTGRES_USER and POSTGRES_PASSWORD: the
	// container image's names.
	FormContainerImage
	// FormLibpq is libpq's own variables and defaults.
	FormLibpq
)

// The variables of a cloud's token, which go with every form. The first is the name of a cloud, the second true or false.
const (
	CloudAuthVariable         = "DATA_SOURCE_CLOUD_AUTH"
	CloudAuthInsecureVariable = "DATA_SOURCE_CLOUD_AUTH_INSECURE"
)

// Variable is the value of an environment variable: a text, or a file that holds the text. A file wins.
type Variable struct {
	Text Secret
	// File is the path that the variable with the suffix _FILE names. It is read before every login.
	File string
}

// impliedName is the name of the target from the environment.
const impliedName = "postgres"

const fileSuffix = "_FILE"

// FromEnvironment returns the one target that needs no configuration file. It is made of the first form of which a
// variable is set. Each variable but libpq's may have the suffix _FILE; it then names a file with the value. libpq's
// variables give what a connection string does not set. CloudAuthVariable gives the password, whatever the form is.
//
// getenv is os.Getenv or a replacement for it; a login reads libpq's variables from the process itself. FromEnvironment
// does not look at the values: internal/credentials verifies them. An error names the variable and not its value.
func FromEnvironment(getenv func(string) string, probing Probing) (*Target, error) {
	isSet := func(name string) bool { return getenv(name) != "" || getenv(name+fileSuffix) != "" }
	e := &Environment{Variables: make(map[string]Variable)}
	add := func(names ...string) {
		for _, name := range names {
			if isSet(name) {
				e.Variables[name] = Variable{Text: Secret(getenv(name)), File: getenv(name + fileSuffix)}
			}
		}
	}
	source := func(name string) string {
		if e.Variables[name].File != "" {
			return name + fileSuffix
		}
		return name
	}
	switch {
	case isSet("DATA_SOURCE_NAME"):
		add("DATA_SOURCE_NAME")
		e.Form, e.Source = FormDataSourceName, source("DATA_SOURCE_NAME")
	case isSet("DATA_SOURCE_URI"):
		add("DATA_SOURCE_URI", "DATA_SOURCE_USER", "DATA_SOURCE_PASS")
		e.Form, e.Source = FormDataSourceURI, source("DATA_SOURCE_URI")
	case isSet("DATABASE_URL"):
		add("DATABASE_URL")
		e.Form, e.Source = FormDatabaseURL, source("DATABASE_URL")
	case isSet("POSTGRES_HOST"), isSet("POSTGRES_USER"), isSet("POSTGRES_DB"), isSet("POSTGRES_PASSWORD"):
		add("POSTGRES_HOST", "POSTGRES_PORT", "POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD")
		e.Form, e.Source = FormContainerImage, "POSTGRES_*"
	case isSet("DATA_SOURCE_USER"), isSet("DATA_SOURCE_PASS"):
		return nil, errors.New("DATA_SOURCE_USER and DATA_SOURCE_PASS need DATA_SOURCE_URI, which is not set")
	default:
		e.Form, e.Source = FormLibpq, "libpq's variables and defaults"
	}
	add(CloudAuthVariable, CloudAuthInsecureVariable)
	return &Target{Name: impliedName, Implied: true, Kind: KindPostgres, Probing: probing, Login: Login{Environment: e}}, nil
}
