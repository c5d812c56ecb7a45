// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"

	"pg_liveness_exporter/config"
)

// VerifyEnvironment reports why no login can be made of environment variables. It reads the files that they name. An
// error names the variable and never its value.
func VerifyEnvironment(e *config.Environment) error {
	login, err := environment{e}.login()
	if err == nil {
		_, err = connConfig(&blankConfig{}, login.Connection)
		err = withSource(e.Source, err)
	}
	return err
}

// MovingVariables returns libpq's variables that change where a login goes although another variable names the server:
// PGHOSTADDR and PGPORT, which fill what that one leaves open, as with libpq. It reads the files that variables name, and
// expects variables that VerifyEnvironment has verified.
func MovingVariables(e *config.Environment) []string {
	own, err := environment{e}.settings()
	variables, variablesErr := config.LibpqSettings(os.Getenv)
	if err != nil || variablesErr != nil {
		return nil
	}
	files := overlay(homeFiles(), variables, own)
	service, err := readService(files["service"], files["servicefile"])
	named := overlay(service, own)
	if err != nil || named["host"] == "" {
		return nil
	}
	var moving []string
	if named["hostaddr"] == "" && variables["hostaddr"] != "" {
		moving = append(moving, "PGHOSTADDR")
	}
	if port := variables["port"]; named["port"] == "" && port != "" && port != "5432" {
		moving = append(moving, "PGPORT")
	}
	return moving
}

// environment makes logins of environment variables.
type environment struct{ *config.Environment }

// login returns a login of what the variables say. It reads the files that they name. An error says where it comes from.
func (e environment) login() (config.Login, error) {
	own, err := e.settings()
	if own == nil {
		return config.Login{}, withSource(e.Source, err)
	}
	identity, insecure, cloudErr := e.cloudAuth()
	if identity != nil && own["password"] != "" {
		cloudErr = &variableError{errors.New(config.CloudAuthVariable + ": there is a password as well: keep one of them")}
	}
	c, connErr, variablesErr := connection(own, identity == nil)
	if err = together(withSource(e.Source, together(err, connErr)), together(variablesErr, cloudErr)); err != nil {
		return config.Login{}, err
	}
	login := config.Login{Connection: c, Password: config.PasswordSource{Cloud: identity}}
	if identity != nil && !insecure {
		if err := c.ProtectsToken(); err != nil {
			return config.Login{}, &variableError{fmt.Errorf("%s %w", config.CloudAuthVariable, err)}
		}
	}
	return login, nil
}

// cloudAuth returns the identity whose token is the password, nil if there is none, and whether its token may be sent to whoever
// answers.
func (e environment) cloudAuth() (identity *config.CloudAuth, insecure bool, err error) {
	name, err := e.read(config.CloudAuthVariable)
	if err != nil {
		return nil, false, err
	}
	text, err := e.read(config.CloudAuthInsecureVariable)
	if err != nil {
		return nil, false, err
	}
	switch {
	case text != "" && text != "true" && text != "false":
		return nil, false, &variableError{errors.New(config.CloudAuthInsecureVariable + ": must be true or false")}
	case name == "" && text == "true":
		return nil, false, &variableError{errors.New(config.CloudAuthInsecureVariable + ": has no effect without " + config.CloudAuthVariable)}
	case name == "":
		return nil, false, nil
	}
	provider, err := config.ParseProvider(string(name))
	if err != nil {
		return nil, false, &variableError{withKey(config.CloudAuthVariable, err)}
	}
	return &config.CloudAuth{Provider: provider}, text == "true", nil
}

// withSource adds where settings come from to an error about them, if there is one.
func withSource(source string, err error) error {
	var named *variableError
	switch {
	case err == nil, errors.As(err, &named):
		return err
	case errors.Is(err, config.ErrSeveralServers):
		return fmt.Errorf("%s: %w: list them in a --config.file", source, err)
	}
	return fmt.Errorf("%s: %w", source, err)
}

// together returns an error with the texts of two, of which one or both may be nil.
func together(err, other error) error {
	if err == nil || other == nil {
		return cmp.Or(err, other)
	}
	return fmt.Errorf("%w; %w", err, other)
}

// variableError is an error that names its variable.
type variableError struct{ err error }

func (e *variableError) Error() string { return e.err.Error() }
func (e *variableError) Unwrap() error { return e.err }

// read returns a variable's value, which is empty if the variable is not set. It has no line end.
func (e environment) read(variable string) (config.Secret, error) {
	v := e.Variables[variable]
	if v.File == "" {
		return config.Secret(strings.TrimRight(string(v.Text), "\r\n")), nil
	}
	value, err := readSecret(v.File)
	if err != nil {
		return "", &variableError{withKey(variable+"_FILE", err)}
	}
	return value, nil
}

// settings returns what the variables say. They override libpq's variables. The settings may come with an error, as those of
// config.ParseConnString do.
func (e environment) settings() (config.ConnSettings, error) {
	switch e.Form {
	case config.FormDataSourceName:
		return e.connString("DATA_SOURCE_NAME")
	case config.FormDatabaseURL:
		return e.connString("DATABASE_URL")
	case config.FormDataSourceURI:
		return e.dataSourceURI()
	case config.FormContainerImage:
		return e.parts(map[string]string{ //nolint:gosec // names of variables
			"host": "POSTGRES_HOST", "port": "POSTGRES_PORT", "dbname": "POSTGRES_DB", "user": "POSTGRES_USER", "password": "POSTGRES_PASSWORD",
		})
	case config.FormLibpq:
	}
	return config.ConnSettings{}, nil
}

// connString returns the settings of a variable that holds a URL or keyword=value.
func (e environment) connString(variable string) (config.ConnSettings, error) {
	text, err := e.read(variable)
	switch {
	case err != nil:
		return nil, err
	case strings.TrimSpace(string(text)) == "":
		return nil, errors.New("is empty")
	}
	return config.ParseConnString(text)
}

// dataSourceURI returns the settings of DATA_SOURCE_URI, DATA_SOURCE_USER and DATA_SOURCE_PASS. The URI may have a scheme.
func (e environment) dataSourceURI() (config.ConnSettings, error) {
	uri, err := e.read("DATA_SOURCE_URI")
	if err != nil {
		return nil, err
	}
	if !strings.Contains(string(uri), "://") { // postgres_exporter wants none
		uri = "postgresql://" + uri
	}
	settings, err := config.ParseConnString(uri)
	if settings == nil {
		return nil, err
	}
	parts, partsErr := e.parts(map[string]string{"user": "DATA_SOURCE_USER", "password": "DATA_SOURCE_PASS"})
	maps.Copy(settings, parts)
	return settings, together(err, partsErr)
}

// parts returns the settings that variables have, which need no quoting. variables has the variable of each keyword.
func (e environment) parts(variables map[string]string) (config.ConnSettings, error) {
	settings := make(config.ConnSettings)
	for _, key := range slices.Sorted(maps.Keys(variables)) {
		value, err := e.read(variables[key])
		if err != nil {
			return nil, err
		}
		// Kubernetes sets POSTGRES_PORT to tcp://… for a Service called postgres.
		if value != "" && !(key == "port" && strings.HasPrefix(string(value), "tcp://")) {
			settings[key] = string(value)
		}
	}
	return settings, nil
}

// connection makes a connection as libpq does: with its variables, its service file, its passfile and its files in the home
// directory. If withPassword is false, it has no password. An error is one of config.NewConnection, or is about a file. One that goes away without libpq's variables is
// variablesErr and says so.
func connection(own config.ConnSettings, withPassword bool) (c *config.Connection, err, variablesErr error) {
	variables, variablesErr := config.LibpqSettings(os.Getenv)
	home := homeFiles()
	named := overlay(home, variables, own)
	service, err := readService(named["service"], named["servicefile"])
	c, connErr := config.NewConnection(withDefaults(overlay(home, variables, service, own)))
	var all, without config.ConnStringError
	if errors.As(connErr, &all) {
		_, errWithout := config.NewConnection(withDefaults(overlay(home, service, own)))
		errors.As(errWithout, &without)
	}
	ofVariables := slices.DeleteFunc(slices.Clone(all), func(problem string) bool { return slices.Contains(without, problem) })
	others := slices.DeleteFunc(all, func(problem string) bool { return slices.Contains(ofVariables, problem) })
	err = together(err, others.Err())
	variablesErr = together(variablesErr, withSource("libpq's variables", ofVariables.Err()))
	if err != nil || variablesErr != nil {
		return nil, err, variablesErr
	}
	addRevoked(&c.TLS)
	switch {
	case !withPassword:
		c.Password = ""
	case c.Password == "":
		c.Password, err = passwordFromFile(c)
	}
	return c, err, nil
}

// overlay returns the settings of all levels. Those of a later level win.
func overlay(levels ...config.ConnSettings) config.ConnSettings {
	all := make(config.ConnSettings)
	for _, level := range levels {
		maps.Copy(all, level)
	}
	return all
}

// withDefaults adds what libpq takes if nothing names it: the server, the role and files of TLS. The database is not libpq's.
func withDefaults(settings config.ConnSettings) config.ConnSettings {
	if settings["host"] == "" && settings["hostaddr"] == "" {
		settings["host"] = defaultHost()
	}
	if settings["user"] == "" {
		if account, err := user.Current(); err == nil {
			settings["user"] = account.Username
		}
	}
	if settings["dbname"] == "" {
		settings["dbname"] = config.KindPostgres.DefaultDatabase()
	}
	addTLSFiles(settings)
	return settings
}
