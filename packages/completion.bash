# Completions of pg_liveness_exporter for bash. The program itself knows its commands, its flags and their values.
_pg_liveness_exporter() {
    local line=${COMP_LINE:0:COMP_POINT} words # COMP_WORDS is split at each = and :
    read -ra words <<<"$line"
    [[ $line != *[[:space:]] ]] || words+=("")
    mapfile -t COMPREPLY < <("$1" --completion-bash "${words[@]:1}" 2>/dev/null)
    # Bash replaces only the text behind the equals sign.
    [[ ${words[-1]} != *=* || $COMP_WORDBREAKS != *=* ]] || COMPREPLY=("${COMPREPLY[@]#*=}")
}
complete -F _pg_liveness_exporter -o default pg_liveness_exporter
