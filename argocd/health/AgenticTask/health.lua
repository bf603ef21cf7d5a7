-- What a task came to never degrades an application: a gate that failed has done what it is for.
local status = obj.status or {}
local phase = status.phase
if phase == nil then
  return { status = "Progressing", message = "waits for the operator" }
end
local message = phase
if status.result ~= nil and status.result.summary ~= nil then
  message = message .. ": " .. status.result.summary
elseif phase == "Pending" and status.waiting ~= nil and status.waiting.reason ~= nil then
  message = message .. ": " .. status.waiting.reason
end
if status.failureReason ~= nil then
  message = status.failureReason .. ", " .. message
end
if status.verdict ~= nil then
  message = status.verdict .. ", " .. message
end
if phase == "Succeeded" or phase == "Failed" then
  return { status = "Healthy", message = message }
end
if phase == "Pending" or phase == "Scheduled" or phase == "Running" or phase == "Verifying" then
  return { status = "Progressing", message = message }
end
return { status = "Unknown", message = "this check does not know the phase " .. phase }
