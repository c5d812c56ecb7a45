// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
)

// understand parses a command line that cannot be used, without the arguments that kingpin refuses. refused has the names of
// the flags among those, without dashes.
func understand(app *kingpin.Application, args []string) (understood *kingpin.ParseContext, refused []string) {
	for {
		understood, err := app.ParseContext(args)
		if err == nil {
			return understood, refused
		}
		// kingpin stops before the argument that it refuses, or behind a flag that lacks its value.
		token := understood.Peek()
		i := token.Index - 1
		switch isNamed := strings.Contains(err.Error(), token.String()); {
		case isNamed && token.Type == kingpin.TokenLong:
			refused = append(refused, token.Value)
		case !isNamed && token.IsFlag():
			i--
		}
		if i < 0 || i >= len(args) { // in a file of arguments (@file)
			return understood, refused
		}
		args = slices.Delete(slices.Clone(args), i, i+1)
	}
}

// hasFlag reports whether the command line has a flag.
func hasFlag(understood *kingpin.ParseContext, flag *kingpin.FlagClause) bool {
	return slices.ContainsFunc(understood.Elements, func(e *kingpin.ParseElement) bool { return e.Clause == flag })
}

// lastValue returns the value of a flag, which is empty if the command line does not have it.
func lastValue(understood *kingpin.ParseContext, flag *kingpin.FlagClause) string {
	for _, element := range slices.Backward(understood.Elements) {
		if element.Clause == flag && element.Value != nil {
			return *element.Value
		}
	}
	return ""
}

// withoutArguments returns an error of kingpin's without the text of any argument, which may be a connection string in the
// wrong place. It names the flag, if there is one.
func withoutArguments(err error, understood *kingpin.ParseContext) error {
	text := err.Error()
	switch {
	case strings.HasPrefix(text, "unexpected "):
		return errors.New("unexpected argument: servers are named in the environment or in a --config.file")
	case regexp.MustCompile(`^[a-z ]+'--?[a-z][a-z.-]*'[a-z ]*$`).MatchString(text): // such as: unknown long flag '--nonsense'
		return err
	}
	for _, element := range understood.Elements {
		flag, ok := element.Clause.(*kingpin.FlagClause)
		if !ok || element.Value == nil {
			continue
		}
		if err := flag.Model().Value.Set(*element.Value); err != nil {
			return fmt.Errorf("--%s %s", flag.Model().Name, possible(flag.Model().Value, err))
		}
	}
	return errors.New("an argument cannot be used")
}

// possible returns which values a flag accepts. err is its error for another value.
func possible(value kingpin.Value, err error) string {
	if words, _, ok := strings.Cut(err.Error(), ", got "); ok { // enum value must be one of text,json, got 'x'
		return strings.TrimPrefix(words, "enum value ")
	}
	if getter, ok := value.(kingpin.Getter); ok {
		switch getter.Get().(type) {
		case time.Duration:
			return "must be a duration, such as 5s"
		case int:
			return "must be a whole number"
		}
	}
	return "cannot have this value"
}
