# Completions of pg_liveness_exporter for fish. The program itself knows its flags and their values.
function __pg_liveness_exporter_complete
    set --local words (commandline --current-process --tokenize --cut-at-cursor)
    pg_liveness_exporter --completion-bash $words[2..] (commandline --current-token --cut-at-cursor)
end
complete --command pg_liveness_exporter --arguments '(__pg_liveness_exporter_complete)'
complete --command pg_liveness_exporter --condition __fish_use_subcommand --arguments 'check help serve'
