"""The torch substrate that techniques share: values, families, sessions, attention, schedules, samplers. Knows no graphs."""
