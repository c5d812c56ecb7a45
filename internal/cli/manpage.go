// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	_ "embed" // for the template
	"io"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"
)

//go:embed manpage.tmpl
var manPageTemplate string

// writeManPage writes the manual page of the program, for section 1, in the language of man(7). kingpin's own has neither
// defaults nor exit codes, and takes a version of one line.
func writeManPage(w io.Writer, app *kingpin.ApplicationModel) error {
	t, err := template.New("man page").Funcs(template.FuncMap{
		"Roff": roff, "Paragraph": paragraph, "Synopsis": synopsis, "FlagName": manFlag, "FlagHelp": manHelp, "Shown": shown,
	}).Parse(manPageTemplate)
	if err != nil {
		return err
	}
	return t.Execute(w, struct {
		*kingpin.ApplicationModel
		Release, Date string
	}{app, version.Version, manDate(version.BuildDate)})
}

// manDate returns the day of a build date of promu's, or an empty string if the text is not one.
func manDate(built string) string {
	date, err := time.Parse("20060102-15:04:05", built)
	if err != nil {
		return ""
	}
	return date.Format(time.DateOnly)
}

// shown returns the flags that are not hidden, by name.
func shown(flags []*kingpin.FlagModel) []*kingpin.FlagModel {
	flags = slices.DeleteFunc(slices.Clone(flags), func(flag *kingpin.FlagModel) bool { return flag.Hidden })
	slices.SortFunc(flags, func(a, b *kingpin.FlagModel) int { return cmp.Compare(a.Name, b.Name) })
	return flags
}

// manFlag returns a flag as the manual page shows it: the name in bold, the value in italics.
func manFlag(flag *kingpin.FlagModel) string {
	name := `\fB` + roff(flagName(flag)) + `\fR`
	if flag.Short != 0 {
		name = `\fB` + roff("-"+string(flag.Short)) + `\fR, ` + name
	}
	if !flag.IsBoolFlag() {
		name += `=\fI` + roff(valueName(flag)) + `\fR`
	}
	return name
}

// manHelp returns what a flag does, and its default if it has one.
func manHelp(flag *kingpin.FlagModel) string {
	help := flag.Help
	if !strings.HasSuffix(help, ".") {
		help += "."
	}
	switch value := strings.Join(flag.Default, " "); {
	case isSwitch(flag):
		help += " Default: " + onOrOff(value) + "."
	case !flag.IsBoolFlag() && value != "":
		help += " Default: " + value + "."
	}
	return paragraph(help)
}

// paragraph returns a text with each sentence on a line of its own, as roff's space between sentences wants it.
func paragraph(text string) string {
	return roff(regexp.MustCompile(`([^.][.:]) ([A-Z/-])`).ReplaceAllString(text, "$1\n$2"))
}

// roff returns a text in which no character means anything to roff.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", `\(ga`, "'", `\(aq`, "^", `\(ha`, "~", `\(ti`).Replace(text)
	return regexp.MustCompile(`(?m)^\.`).ReplaceAllString(text, `\&.`)
}
