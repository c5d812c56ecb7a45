// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/alecthomas/kingpin/v2"
)

// usageTemplate is the text of --help, for the program or for the command that is named before it.
const usageTemplate = `{{$command := .Context.SelectedCommand -}}
usage: {{Synopsis .App $command}}

{{if $command}}{{$command.Help|Wrap 0}}{{else}}{{.App.Help|Wrap 0}}{{end}}
Flags:
{{FlagsOf $command .Context.Flags|FlagsToTwoColumns|FormatTwoColumns}}
{{- with .Context.Args}}
Arguments:
{{.|ArgsToTwoColumns|FormatTwoColumns}}
{{- end}}
{{- if not $command}}
Commands:
{{- range .App.Commands}}
  {{Synopsis nil .}}
{{.Help|Wrap 6}}
{{- end}}
{{- end}}`

// usageFuncs returns the functions of usageTemplate that are not kingpin's. FlagsToTwoColumns replaces kingpin's, so that
// --help-long shows the same.
func usageFuncs() template.FuncMap {
	return template.FuncMap{"Synopsis": synopsis, "FlagsOf": flagsOf, "FlagsToTwoColumns": flagRows}
}

// synopsis returns how to call the program, a command of it, or, without app, how to write the command alone.
func synopsis(app *kingpin.ApplicationModel, command *kingpin.CmdModel) string {
	var words []string
	if app != nil {
		words = append(words, app.Name)
	}
	if command == nil {
		return strings.Join(append(words, "[COMMAND]", "[FLAG...]"), " ")
	}
	words = append(words, command.FullCommand)
	for _, arg := range command.Args {
		word := strings.ToUpper(arg.Name)
		if isCumulative(arg.Value) {
			word += "..."
		}
		words = append(words, "["+word+"]")
	}
	if app != nil || len(command.Flags) > 0 {
		words = append(words, "[FLAG...]")
	}
	return strings.Join(words, " ")
}

// flagsOf returns those of the flags of a command, which include the ones of the program, that have an effect on it. The
// command is nil for the program without one.
func flagsOf(command *kingpin.CmdModel, flags []*kingpin.FlagModel) []*kingpin.FlagModel {
	if command == nil || command.Default {
		return flags
	}
	return slices.DeleteFunc(slices.Clone(flags), func(flag *kingpin.FlagModel) bool {
		isOwn := slices.ContainsFunc(command.Flags, func(own *kingpin.FlagModel) bool { return own.Name == flag.Name })
		isShared := flag.Name == "help" || command.Name == "check" && slices.Contains(flagsOfProbes(), flag.Name)
		return !isOwn && !isShared
	})
}

// flagsOfProbes returns the flags of the program that also have an effect on the command check.
func flagsOfProbes() []string { return []string{"config.file", "probe.timeout"} }

// flagRows returns a row of --help for each flag: how to write it with its default, and what it does.
func flagRows(flags []*kingpin.FlagModel) [][2]string {
	var rows [][2]string
	for _, flag := range flags {
		if flag.Hidden {
			continue
		}
		name := flagName(flag)
		switch {
		case flag.Short != 0:
			name = "-" + string(flag.Short) + ", " + name
		default:
			name = "    " + name
		}
		help := flag.Help
		switch value := strings.Join(flag.Default, " "); {
		case isSwitch(flag):
			help += " Default: " + onOrOff(value) + "."
		case flag.IsBoolFlag():
		case value != "":
			name += "=" + value
		default:
			name += "=" + valueName(flag)
		}
		if isCumulative(flag.Value) {
			name += " ..."
		}
		rows = append(rows, [2]string{name, help})
	}
	return rows
}

// flagName returns a flag with its dashes. One that is on or off can be negated.
func flagName(flag *kingpin.FlagModel) string {
	if isSwitch(flag) {
		return "--[no-]" + flag.Name
	}
	return "--" + flag.Name
}

// isSwitch reports whether a flag turns something on or off, unlike --version, which does something. define gives a default to
// each that does.
func isSwitch(flag *kingpin.FlagModel) bool { return flag.IsBoolFlag() && len(flag.Default) > 0 }

func onOrOff(value string) string {
	if value == "true" {
		return "on"
	}
	return "off"
}

// valueName returns what stands for the value of a flag: its placeholder, such as text|json, DURATION, NUMBER, or the last word
// of the flag's name.
func valueName(flag *kingpin.FlagModel) string {
	if flag.PlaceHolder != "" {
		return flag.PlaceHolder
	}
	if getter, ok := flag.Value.(kingpin.Getter); ok {
		switch getter.Get().(type) {
		case time.Duration:
			return "DURATION"
		case int:
			return "NUMBER"
		}
	}
	return strings.ToUpper(flag.Name[strings.LastIndexAny(flag.Name, ".-")+1:])
}

func isCumulative(value kingpin.Value) bool {
	v, ok := value.(interface{ IsCumulative() bool })
	return ok && v.IsCumulative()
}
