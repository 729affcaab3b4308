"""What a page says, one subject a file: functions of the document that give blocks."""
