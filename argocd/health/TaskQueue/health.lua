-- A queue that cannot be read, or whose objects the API refuses, degrades the application; a task file that cannot be used,
-- and what a task came to, do not.
local status = obj.status or {}
if status.conditions == nil then
  return { status = "Progressing", message = "waits for the operator" }
end
if status.observedGeneration ~= nil and obj.metadata.generation ~= nil
    and status.observedGeneration < obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not seen the last change yet" }
end
local found = {}
for _, condition in ipairs(status.conditions) do
  found[condition.type] = condition
end
local function holds(kind, value)
  return found[kind] ~= nil and found[kind].status == value
end
local function says(health, kind)
  return { status = health, message = found[kind].message or found[kind].reason or kind }
end
if holds("Stalled", "True") then
  return says("Degraded", "Stalled")
end
-- A person said so, or has to say what is meant.
for _, kind in ipairs({ "Suspended", "PruneGuarded", "NameTaken" }) do
  if holds(kind, "True") then
    return says("Suspended", kind)
  end
end
if holds("Fetched", "False") then
  return says("Degraded", "Fetched")
end
if holds("Ready", "True") then
  return says("Healthy", "Ready")
end
-- Somebody has to change a role, a quota, a policy or a webhook before its objects can be made.
for _, reason in ipairs({ "Forbidden", "QuotaExceeded", "Refused", "WebhookFailed" }) do
  if holds("Ready", "False") and found["Ready"].reason == reason then
    return says("Degraded", "Ready")
  end
end
if found["Ready"] ~= nil then
  return says("Progressing", "Ready")
end
return { status = "Progressing", message = "waits for the operator" }
