// The rules and the dashboard beside this file, for those who install by jsonnet.
{
  prometheusAlerts+:: std.parseYaml(importstr 'alerts.yml'),
  grafanaDashboards+:: { 'pg_liveness.json': import 'dashboard.json' },
}
