-- An Agent that can never work is a mistake in what was applied, and degrades the application that applied it.
local status = obj.status or {}
if status.conditions == nil then
  return { status = "Progressing", message = "waits for the operator" }
end
if status.observedGeneration ~= nil and obj.metadata.generation ~= nil
    and status.observedGeneration < obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not seen the last change yet" }
end
local health = { status = "Progressing", message = "waits for the operator" }
for _, condition in ipairs(status.conditions) do
  if condition.type == "Ready" or condition.type == "Validated" then
    local message = condition.message or condition.reason or ""
    if condition.status == "False" then
      return { status = "Degraded", message = message }
    end
    if condition.status == "True" then
      health = { status = "Healthy", message = message }
    end
  end
end
return health
