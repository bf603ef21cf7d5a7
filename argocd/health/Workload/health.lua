-- What a Workload came to never degrades an application. One that goes on only after a person did something is Suspended.
local status = obj.status or {}
local phase = status.phase
if phase == nil then
  return { status = "Progressing", message = "waits for the operator" }
end
if status.observedGeneration ~= nil and obj.metadata.generation ~= nil
    and status.observedGeneration < obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not seen the last change yet" }
end
local message = phase
if status.message ~= nil then
  message = message .. ": " .. status.message
end
if status.verdict ~= nil then
  message = status.verdict .. ", " .. message
end
if phase == "Completed" or phase == "Failed" then
  return { status = "Healthy", message = message }
end
for _, condition in ipairs(status.conditions or {}) do
  if (condition.type == "Stalled" or condition.type == "Blocked") and condition.status == "True" then
    return { status = "Suspended", message = condition.message or condition.reason or message }
  end
end
if phase == "Planning" or phase == "Planned" or phase == "Dispatched" then
  return { status = "Progressing", message = message }
end
return { status = "Unknown", message = "this check does not know the phase " .. phase }
